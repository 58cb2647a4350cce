"""Students that are their teacher with adapters: files of peft's kind, which peft itself reads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimo_cli.engine.lora import LoraSpec, merged, new_adapters, trained_part
from dimo_cli.errors import MissingError
from dimo_cli.specs.manifest import TeacherFacts
from dimo_cli.students.adapters import our_names, peft_names, write_adapters
from dimo_cli.students.checkpoints import at_best
from dimo_cli.students.folder import load_student
from dimo_cli.students.lowrank import merge_student
from dimo_cli.students.published import open_student
from dimo_cli.students.target import Target
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.stored import is_stored
from tests.engine.test_lora import asked, disturb
from tests.helpers.runs import distilled
from tests.helpers.tiny import FAMILIES, tiny_teacher

RANK = 3


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """A run of adapters, of six steps."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    student = {
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "ema": {"decay": 0.5},
        "lora": {"rank": RANK, "alpha": 6},
    }
    distilled(folder, student=student, fids=(1.0, 3.0, 2.0))
    return folder


def facts(teacher):
    return TeacherFacts(
        name=teacher.name, family=teacher.family, revision="main", license=teacher.license
    )


def test_a_student_of_adapters_is_a_folder_of_peft(lora_run):
    files = sorted(path.name for path in (lora_run / "student").iterdir())
    assert files == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "dimo.json",
        "preview.png",
    ]
    manifest = json.loads((lora_run / "student" / "dimo.json").read_text())
    assert manifest["format"] == 2
    assert manifest["lora"] == {"rank": RANK, "alpha": 6.0}
    config = json.loads((lora_run / "student" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (RANK, 6, "LORA")
    weights = load_file(lora_run / "student" / "adapter_model.safetensors")
    assert "base_model.model.blocks.0.qkv.lora_A.weight" in weights


def test_it_is_loaded_as_it_was_saved(lora_run):
    student = load_student(lora_run)
    expected = load_file(lora_run / "checkpoints" / "step-6" / "ema.safetensors")
    found = trained_part(student.backbone).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    base = {id(p) for p in student.teacher.backbone.parameters()}
    assert base < {id(p) for p in student.backbone.parameters()}


def test_a_checkpoint_is_the_student_that_it_becomes(lora_run):
    last = open_student(f"{lora_run}@last")
    assert last.manifest.weights_sha256 == load_student(lora_run).manifest.weights_sha256
    assert open_student(f"{lora_run}@step-3").short_id != last.short_id


def test_the_best_checkpoint_is_loaded_beside_the_last(lora_run):
    student = load_student(lora_run)
    best = at_best(lora_run, student)
    assert best.manifest.weights_sha256 == open_student(f"{lora_run}@best").manifest.weights_sha256
    found, last = (trained_part(s.backbone).state_dict() for s in (best, student))
    expected = load_file(lora_run / "checkpoints" / "step-2" / "ema.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not all(torch.equal(found[name], last[name]) for name in last)


def test_students_without_adapters_say_nothing_of_them(finished_run):
    manifest = json.loads((finished_run / "student" / "dimo.json").read_text())
    assert manifest["format"] == 1
    assert "lora" not in manifest
    assert "fingerprint" not in manifest["teacher"]


def test_adapters_over_another_teacher_are_refused(lora_run, monkeypatch, tmp_path):
    from dimo_cli.teachers import registry

    other = load_teacher("digits")
    with torch.no_grad():
        other.backbone.blocks[2].up.weight[0, 0] += 1
    monkeypatch.setitem(registry.EMBEDDED, "digits", lambda: other)
    with pytest.raises(MissingError, match="over other weights of `digits`"):
        load_student(lora_run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("base_model.model.blocks.0.qkv.lora_B.weight"), "lacks"),
        (
            lambda w: w.update({"base_model.model.to_logits.lora_A.weight": torch.ones(3, 64)}),
            "to_logits",
        ),
        (lambda w: w["base_model.model.blocks.0.qkv.lora_A.weight"].fill_(torch.nan), "not finite"),
        (lambda w: w.clear(), "no adapter"),
    ],
)
def test_damaged_adapters_are_refused(lora_run, tmp_path, change, said):
    from dimo_cli.errors import DimoError
    from dimo_cli.files.writing import file_sha256

    folder = tmp_path / "student"
    shutil.copytree(lora_run / "student", folder)
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    manifest = json.loads((folder / "dimo.json").read_text())
    manifest["weights_sha256"] = file_sha256(folder / "adapter_model.safetensors")
    (folder / "dimo.json").write_text(json.dumps(manifest))
    with pytest.raises(DimoError, match=said):
        load_student(folder)


def test_it_draws_with_every_command_that_draws(lora_run, dimo):
    assert dimo("sample", "--student", lora_run, "--class", "3", "--out", "a").exit_code == 0
    assert (
        dimo(
            "sample",
            "--student",
            lora_run,
            "--teacher",
            "--steps",
            "2",
            "--class",
            "3",
            "--out",
            "b",
        ).exit_code
        == 0
    )
    assert dimo("check", lora_run).exit_code == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_peft_lead_back_to_ours(name):
    network = new_adapters(tiny_teacher(name).backbone, LoraSpec(rank=1, targets=("all",)), 0)
    weights = trained_part(network).state_dict()
    named = peft_names(weights)
    assert len(named) == len(weights)
    assert our_names(named).keys() == weights.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_loads_what_is_written_and_computes_the_same(name, tmp_path, generator):
    peft = pytest.importorskip("peft")
    teacher = tiny_teacher(name)
    spec = LoraSpec(rank=2, alpha=4, targets=("attention", "mlp"))
    network = disturb(new_adapters(teacher.backbone, spec, 0))
    write_adapters(network, tmp_path, teacher.name, facts(teacher))
    tokens, cond = asked(teacher, generator)
    with torch.no_grad():
        expected, plain = network(tokens, cond), teacher.backbone(tokens, cond)
        merged_logits = merged(network)(tokens, cond)
        loaded = peft.PeftModel.from_pretrained(tiny_teacher(name).backbone, tmp_path)
        found = loaded(tokens, cond)
    assert (expected - plain).abs().max() > 1e-2
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=1e-6 * scale, rtol=1e-5)
    torch.testing.assert_close(merged_logits, expected, atol=1e-6 * scale, rtol=1e-5)


def test_adapters_are_written_for_peft_alone(lora_run, dimo, tmp_path):
    told = dimo("export", lora_run, "--lora", "--out", tmp_path / "adapter")
    assert told.exit_code == 0, told.stderr
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        expected = (lora_run / "student" / name).read_bytes()
        assert (tmp_path / "adapter" / name).read_bytes() == expected
    refused = dimo("export", "digits", "--lora", "--out", tmp_path / "b")
    assert refused.exit_code == 2
    assert "`dimo extract`" in refused.stderr
    assert dimo("export", lora_run, "--lora", "--greedy").exit_code == 2


def test_a_card_says_that_it_is_an_adapter(lora_run):
    card = (lora_run / "student" / "README.md").read_text()
    assert "LoRA of rank 3 (alpha 6) beside the teacher's weights" in card
    assert "- lora\n" in card


def test_a_push_sends_the_files_of_the_adapters(lora_run, dimo):
    told = dimo("push", lora_run, "you/lora", "--dry-run", "--json")
    assert told.exit_code == 0, told.stderr
    names = {file["path"] for file in json.loads(told.stdout)["files"]}
    assert {"adapter_model.safetensors", "adapter_config.json", "dimo.json"} <= names
    assert "model.safetensors" not in names


@pytest.fixture(scope="module")
def int8_run(tmp_path_factory):
    """A run of adapters over a teacher in int8."""
    folder = tmp_path_factory.mktemp("int8") / "run"
    student = {"optimizer": {"learning_rate": 1e-2}, "lora": {"rank": RANK}}
    distilled(folder, steps=2, student=student, teacher={"weights": "int8"})
    return folder


def test_adapters_over_int8_are_loaded_over_int8(int8_run, generator):
    manifest = json.loads((int8_run / "student" / "dimo.json").read_text())
    assert manifest["teacher"]["weights"] == "int8"
    student = load_student(int8_run)
    assert is_stored(student.teacher.backbone)
    assert is_stored(student.backbone)
    plain = merge_student(student)
    assert not is_stored(plain.backbone)
    assert plain.manifest.teacher.weights is None
    tokens, cond = asked(student.teacher, generator)
    with torch.no_grad():
        expected = student.backbone(tokens, cond)
        torch.testing.assert_close(plain.backbone(tokens, cond), expected, atol=1e-4, rtol=1e-4)


def test_adapters_over_int8_are_not_refined_over_other_weights(int8_run, dimo):
    refused = dimo("refine", int8_run, "--gan", "--set", "student.lora.rank=3", "-o", "x")
    assert refused.exit_code == 2
    assert "`teacher.weights` is fp32" in refused.stderr
    assert "Set `teacher.weights=int8`" in refused.stderr


def test_the_teacher_is_drawn_as_it_is_asked_for(int8_run, dimo, monkeypatch):
    loaded = []
    real = Target.__init__

    def seen(self, teacher, *rest):
        loaded.append(is_stored(teacher.backbone))
        real(self, teacher, *rest)

    monkeypatch.setattr(Target, "__init__", seen)
    draw = ("sample", "--teacher", "--steps", 1, "-n", 1, "--preset", "digits", "--grid", "a.png")
    assert dimo(*draw, "--set", "teacher.weights=int8").exit_code == 0
    assert dimo(*draw).exit_code == 0
    assert loaded == [True, False]
