"""Compiled by block, which is the default on a card, every family trains and draws as well."""

import pytest

from tests.gpu.test_commands import GOLDEN, QUICK
from tests.helpers.students import TEXT
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
    as_usual = ("--set", "train.compile=auto", "--set", "train.steps=4")
    call = ("distill", "--preset", name, *model, *QUICK, *prompts, *as_usual, "--json", "-o", "run")
    result = dimo(*call)
    succeed(result)
    assert "torch.compile failed" not in result.stderr
    assert last_log(tmp_path / "run")["step"] == 4
