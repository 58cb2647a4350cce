"""Compiled and recorded, which is the default on a card, every family trains and draws as well."""

import pytest
import torch

from benchmarks.real.sample import student_of
from dimo_cli.teachers.compiling import compile_blocks
from dimo_cli.teachers.decoding import compile_decoder
from tests.gpu.test_commands import GOLDEN, QUICK
from tests.helpers.students import TEXT
from tests.helpers.tiny import FAMILIES, tiny_teacher
from tests.runs.test_refine import last_log
from tests.teachers.test_families import PROMPTS, flags, succeed


@pytest.fixture(autouse=True)
def _only_on_a_card(device):
    if device.type == "cpu":
        pytest.skip("tests/teachers/test_compiling.py is this for a CPU")


@pytest.mark.parametrize("name", ["digits", "shapes", *GOLDEN])
def test_a_family_trains_as_a_card_has_it_by_default(dimo, fake_hub, golden, tmp_path, name):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = flags(GOLDEN[name](fake_hub, golden)) if name in GOLDEN else ()
    prompts = ("--set", "condition.prompts=prompts.txt") if name in TEXT else ()
    as_usual = ("--set", "train.compile=auto", "--set", "train.steps=12")
    call = ("distill", "--preset", name, *model, *QUICK, *prompts, *as_usual, "--json", "-o", "run")
    result = dimo(*call)
    succeed(result)
    assert "torch.compile failed" not in result.stderr
    assert last_log(tmp_path / "run")["step"] == 12


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_compiled(name, device):
    failures = []
    student = student_of(name, tiny_teacher(name).to(device))
    cond = student.teacher.conditioner.draw(2, torch.Generator().manual_seed(0)).to(device)
    compile_blocks(student.backbone, failures.append)
    compile_decoder(student.teacher.tokenizer, failures.append)
    images = student.sample(cond, torch.Generator(device).manual_seed(1))
    assert not failures
    assert images.isfinite().all()
