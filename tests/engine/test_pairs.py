"""Pairs are drawn once, kept under what decides them, and found again."""

from dataclasses import replace

import torch

from dimo_cli.engine.input_noise import give_noise, noise_of
from dimo_cli.engine.pairs import PER_FILE, PairStore
from dimo_cli.specs.input_noise import InputNoise
from dimo_cli.teachers.registry import load_teacher
from tests.conftest import small_spec


def store(teacher, root, notes=None, **groups):
    said = notes.append if notes is not None else lambda line: None
    return PairStore(teacher, small_spec(**groups), root, said)


def files(root):
    return sorted(root.rglob("*.safetensors"))


def test_a_second_run_finds_them_and_another_seed_or_start_draws_others(teacher, tmp_path):
    first, notes = store(teacher, tmp_path)(None, 8, 2), []
    again = store(teacher, tmp_path, notes)(None, 8, 2)
    assert notes == []
    assert torch.equal(first.end, again.end)
    for groups in ({"train": {"seed": 7}}, {"init": {"mask_ratio": 0.3}}):
        store(teacher, tmp_path, notes, **groups)(None, 8, 2)
    assert len(notes) == 2
    assert len(files(tmp_path)) == 3


def test_other_weights_draw_others(teacher, tmp_path):
    student = load_teacher("digits").backbone
    with torch.no_grad():
        student.to_logits.bias.add_(torch.arange(17))
    pairs = store(teacher, tmp_path)
    assert not torch.equal(pairs(None, 8, 2).end, pairs(student, 8, 2).end)
    assert len({path.parent for path in files(tmp_path)}) == 2


def test_a_stopped_or_damaged_folder_is_completed_with_the_same_pairs(
    teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr("dimo_cli.engine.pairs.PER_FILE", 4)
    whole = store(teacher, tmp_path)(None, 10, 1)
    first, second, _ = files(tmp_path)
    kept = first.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:50])
    again = store(teacher, tmp_path)(None, 10, 1)
    assert first.stat().st_mtime_ns == kept
    for part in ("start", "end"):
        assert torch.equal(getattr(again, part), getattr(whole, part))
    assert torch.equal(again.cond.tensors["label"], whole.cond.tensors["label"])
    assert PER_FILE > 4


def test_it_is_known_how_many_are_still_to_be_drawn(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("dimo_cli.engine.pairs.PER_FILE", 4)
    pairs = store(teacher, tmp_path)
    drawer = pairs.drawer(None, 1)
    assert pairs.missing(drawer, 10) == 10
    pairs(None, 10, 1)
    assert pairs.missing(drawer, 10) == 0
    files(tmp_path)[0].unlink()
    assert pairs.missing(drawer, 10) == 4


def test_drawing_for_long_says_how_far_it_is(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("dimo_cli.engine.pairs.PER_FILE", 4)
    monkeypatch.setattr("dimo_cli.engine.pairs.TELL_EVERY", 0.0)
    notes = []
    store(teacher, tmp_path, notes)(None, 10, 1)
    assert notes[1:] == ["4 of 10 pairs are there.", "8 of 10 pairs are there."]


def test_a_student_goes_on_from_its_start_and_a_teacher_from_masks(teacher, tmp_path):
    seen = []
    embed = teacher.backbone.embed
    teacher.backbone.embed = lambda tokens: (seen.append(tokens.clone()), embed(tokens))[1]
    pairs = store(teacher, tmp_path, init={"mask_ratio": 0.5})
    pairs(None, 4, 2)
    assert (seen[0] == teacher.space.mask_id).all()
    seen.clear()
    start = pairs(teacher.backbone, 4, 2).start
    assert torch.equal(seen[0], start.long())
    is_start = seen[1] == start.long()
    assert 0.3 < is_start.float().mean() < 1


def test_a_student_draws_with_all_its_noise_and_a_teacher_with_none(teacher, tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(
        "dimo_cli.engine.one_step.perturb_embeddings",
        lambda embeds, sigma, generator: (looks.append(sigma), embeds)[1],
    )
    student = give_noise(load_teacher("digits").backbone, InputNoise(), teacher.space)
    noise_of(student).register_forward_hook(lambda *_: looks.append("own"))
    pairs = store(teacher, tmp_path, init={"embed_noise": 0.5})
    pairs(None, 4, 2)
    assert looks == []
    pairs(student, 4, 2)
    assert looks == ["own", 0.5] * 2


def test_prompts_are_kept_as_words(tmp_path):
    shapes = load_teacher("shapes")
    pairs = store(shapes, tmp_path)(None, 3, 1)
    again = store(shapes, tmp_path)(None, 3, 1)
    assert again.cond.texts == pairs.cond.texts != ()
    start, end, cond = again.draw(2, torch.Generator().manual_seed(0))
    assert start.shape == end.shape == (2, 64, 1)
    assert cond.tensors["text"].shape[0] == 2
    assert files(tmp_path)[0].stat().st_size < 4000


def test_a_draw_is_that_of_the_whole_step_however_it_is_cut(teacher, tmp_path):
    pairs = store(teacher, tmp_path)(None, 8, 1)
    whole = pairs.draw(6, torch.Generator().manual_seed(1))
    part = pairs.draw(6, torch.Generator().manual_seed(1), slice(2, 4))
    assert torch.equal(part[1], whole[1][2:4])
    assert torch.equal(part[2].tensors["label"], whole[2].tensors["label"][2:4])


def test_a_network_is_trained_as_before_when_it_has_drawn(teacher, tmp_path):
    backbone = replace(teacher).backbone.train()
    store(teacher, tmp_path)(backbone, 2, 1)
    assert backbone.training
