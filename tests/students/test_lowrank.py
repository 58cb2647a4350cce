"""Adapters merged into weights, and weights taken apart into adapters."""

import json

import pytest
import torch
from safetensors import SafetensorError

from dimo_cli.engine.lora import LoraSpec, has_adapters, new_adapters
from dimo_cli.errors import SpecError
from dimo_cli.specs.lowrank import ExtractSpec
from dimo_cli.specs.manifest import LoraFacts
from dimo_cli.students import lowrank
from dimo_cli.students.folder import load_student, write_student
from dimo_cli.students.lowrank import extract_student, factors, merge_student
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.teachers.registry import load_teacher
from tests.engine.test_lora import asked, disturb

WHOLE = LoadOptions(with_teacher=True, device="cpu")


@pytest.fixture
def plain():
    return open_student("digits", WHOLE)


@pytest.fixture
def adapted(plain):
    """The built-in student's manifest with adapters of rank 2."""
    network = disturb(new_adapters(plain.teacher.backbone, LoraSpec(rank=2), 0), 0.05)
    manifest = plain.manifest.model_copy(update={"format": 2, "lora": LoraFacts(rank=2, alpha=2)})
    return Student(manifest, plain.teacher, network)


def logits(student, generator):
    tokens, cond = asked(student.teacher, generator.manual_seed(0))
    with torch.no_grad():
        return student.backbone(tokens, cond)


def test_a_merged_student_computes_what_the_adapted_one_does(adapted, generator, tmp_path):
    write_student(tmp_path / "merged", merge_student(adapted))
    student = load_student(tmp_path / "merged")
    assert not has_adapters(student.backbone)
    assert student.manifest.format == 1
    expected = logits(adapted, generator)
    # Rounding alone, as the next test shows; how much of it, depends on the processor.
    scale = expected.abs().max().item()
    torch.testing.assert_close(logits(student, generator), expected, atol=5e-6 * scale, rtol=1e-6)


def test_what_differs_when_merged_is_rounding(adapted, generator):
    adapted.teacher.backbone.double()
    adapted.backbone.double()
    expected = logits(adapted, generator)
    torch.testing.assert_close(
        logits(merge_student(adapted), generator), expected, atol=1e-12, rtol=1e-12
    )


def test_merging_leaves_the_teacher_as_it_was(adapted):
    merge_student(adapted)
    expected = load_teacher("digits").backbone.state_dict()
    found = adapted.teacher.backbone.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_adapters_are_found_again_in_what_they_were_merged_into(adapted, generator, tmp_path):
    merged = merge_student(adapted)
    found, loss = extract_student(merged, ExtractSpec(student="-", rank=2))
    assert loss.error < 1e-5
    assert loss.elsewhere < 1e-6
    write_student(tmp_path / "extracted", found)
    again = load_student(tmp_path / "extracted")
    assert has_adapters(again.backbone)
    expected = logits(adapted, generator)
    scale = expected.abs().max().item()
    torch.testing.assert_close(logits(again, generator), expected, atol=1e-5 * scale, rtol=1e-4)


def test_a_higher_rank_keeps_more_of_a_student(plain):
    losses = [
        extract_student(plain, ExtractSpec(student="-", rank=rank))[1] for rank in (4, 16, 64)
    ]
    assert losses[0].error > losses[1].error > losses[2].error
    assert losses[2].error < 1e-5  # the smallest side of all: nothing is cut off
    assert losses[0].worst[1] == min(losses[0].kept.values())
    assert 0 < losses[0].elsewhere < 1


def test_large_matrices_are_taken_apart_by_a_randomized_svd(monkeypatch, generator):
    delta = torch.randn(60, 4, generator=generator) @ torch.randn(4, 50, generator=generator)
    delta += 1e-3 * torch.randn(60, 50, generator=generator)
    down, up = factors(delta, 4)
    best = (delta - up @ down).norm()
    monkeypatch.setattr(lowrank, "EXACT", 8)
    state = torch.get_rng_state()
    down, up = factors(delta, 4)
    assert (delta - up @ down).norm() < 1.01 * best
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rank_above_the_smallest_matrix_is_refused(plain):
    with pytest.raises(SpecError, match="`--rank` is 65"):
        extract_student(plain, ExtractSpec(student="-", rank=65))


def test_only_adapters_can_be_merged_and_only_weights_taken_apart(plain, adapted):
    with pytest.raises(SpecError, match="nothing to merge"):
        merge_student(plain)
    with pytest.raises(SpecError, match="has adapters already"):
        extract_student(adapted, ExtractSpec(student="-", rank=2))


def test_the_commands_say_what_they_made(dimo, tmp_path):
    told = dimo("extract", "digits", "--rank", "8", "--out", "lora", "--json")
    assert told.exit_code == 0, told.stderr
    document = json.loads(told.stdout)
    assert 0 < document["relative_error"] < 1
    assert len(document["kept"]) == 16
    told = dimo("merge", "lora", "--out", "plain")
    assert told.exit_code == 0, told.stderr
    assert "a student of weights of its own" in told.stdout
    assert (tmp_path / "plain" / "model.safetensors").is_file()
    assert dimo("sample", "--student", "plain", "--class", "3", "--out", "a").exit_code == 0
    refused = dimo("merge", "lora", "--out", "plain")
    assert refused.exit_code == 2
    assert "which is there already" in refused.stderr


def full(*_args, **_kwargs):
    raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")


@pytest.mark.parametrize(
    ("words", "writer"),
    [
        (("merge", "lora"), "dimo_cli.students.folder.save_file"),
        (("extract", "digits", "--rank", "1"), "dimo_cli.students.adapters.save_file"),
        (("export", "lora", "--lora"), "dimo_cli.students.adapters.save_file"),
    ],
)
def test_a_full_disk_is_said_and_leaves_nothing(
    dimo, adapted, tmp_path, monkeypatch, words, writer
):
    write_student(tmp_path / "lora", adapted)
    monkeypatch.setattr(writer, full)
    result = dimo(*words, "--out", "out/new")
    assert result.exit_code == 3
    assert "Cannot write to `out/new`" in " ".join(result.stderr.split())
    assert not list((tmp_path / "out").rglob(".*"))
