"""The benchmark of `emoji`: what its prompts ask for, what of it is right, and what is added up."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.emoji import FACTS, HELD_OUT, TASKS, benchmark, right_of
from dimo_cli.metrics.emoji_reader import EmojiReader, load_emoji, look_of, numbers_of
from dimo_cli.metrics.emoji_truth import EmojiTruth
from dimo_cli.metrics.prompts import load_prompts
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.emoji.world import Look, Scene, held_out, read, things

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "emoji" / "pictures.npz"
FOX = Look(7, "noto", "blue", "small", "left")


@pytest.fixture(scope="module")
def reader():
    return load_emoji()


@pytest.fixture(scope="module")
def drawn():
    """Rendered pictures of a seed that training has not, as bytes [32, 3, 32, 32], and looks."""
    kept = np.load(GOLDEN)
    pictures = torch.from_numpy(kept["pictures"]).permute(0, 3, 1, 2)
    return pictures, [look_of(row) for row in kept["looks"].tolist()]


def right(seen, looks, field):
    """How many pictures show what they should in this respect."""
    pairs = zip(seen, looks, strict=True)
    return sum(s is not None and getattr(s, field) == getattr(look, field) for s, look in pairs)


def test_a_prompt_says_the_scene_that_it_is_judged_by():
    for task in benchmark(20):
        assert read(task.prompt).scene == task.scene


def test_every_task_has_as_many_prompts_and_the_same_ones_every_time():
    tasks = benchmark(5)
    assert tasks == benchmark(5)
    assert tasks != benchmark(5, seed=1)
    assert Counter(task.name for task in tasks) == dict.fromkeys((*TASKS, HELD_OUT), 5)


def test_styles_that_were_held_out_from_training_are_asked_for_in_a_task_of_their_own_alone():
    for task in benchmark(40):
        pair = (task.scene.thing, task.scene.style)
        assert (pair in held_out()) == (task.name == HELD_OUT)


def test_each_fact_that_is_said_is_right_or_wrong_for_itself():
    scene = Scene(7, "noto", "pink", "small", "right")
    assert right_of(scene, FOX) == {
        "name": True,
        "style": True,
        "background": False,
        "size": True,
        "place": False,
    }


def test_what_is_not_said_cannot_be_wrong():
    assert right_of(Scene(7), FOX) == {"name": True}


def test_nothing_is_right_of_a_picture_that_shows_nothing():
    assert right_of(Scene(7, "noto"), None) == {"name": False, "style": False}


def test_a_look_survives_its_numbers():
    assert look_of(numbers_of(FOX)) == FOX


def test_the_reader_reads_drawings(reader, drawn):
    pictures, looks = drawn
    seen = reader.looks(pictures)
    for field in FACTS.values():
        assert right(seen, looks, field) >= 0.9 * len(looks), field


def test_the_reader_still_reads_pictures_with_noise(reader, drawn):
    pictures, looks = drawn
    noise = 12 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    seen = reader.looks((pictures + noise).clamp(0, 255).byte())
    assert right(seen, looks, "thing") >= 27


def test_a_picture_of_nothing_and_one_of_two_things_show_no_thing(reader, drawn):
    pictures, looks = drawn
    assert reader.looks(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8)) == [None]
    others = pictures.roll(1, 0)
    patches = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    mixed = torch.where(patches.repeat_interleave(4, 2).repeat_interleave(4, 3), others, pictures)
    assert right(reader.looks(mixed), looks, "thing") <= 8


def test_the_reader_refuses_pictures_of_another_size(reader):
    with pytest.raises(SpecError, match="32x32 pictures; these are 64x48"):
        reader(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))


def test_no_feature_of_the_reader_is_dead(reader, drawn):
    spread = reader(drawn[0]).vectors.std(0)
    assert reader.dimensions == len(spread) == EmojiReader.dimensions
    assert (spread > 0.01).all()
    assert reader.classes == len(things())


def test_the_judges_that_ship_are_those_that_were_examined_and_good_enough():
    told = json.loads((ROOT / "benchmarks" / "results" / "emoji_judges.json").read_text())
    judges = {"emoji_features": told["reader"], **told["rewards"]}
    for name in ("emoji_features", "emoji_clip", "emoji_preference"):
        path = Path(builtin_path(f"{name}.safetensors"))
        assert judges[name]["weights"] == file_sha256(path), name
        assert path.stat().st_size < 600_000, name
    for fact in ("thing", "style", "background"):
        assert told["reader"]["drawn"][fact] >= 0.98
    assert told["reader"]["50% of another picture"]["sees a thing"] <= 0.05
    assert told["teacher by steps"]["16"]["agree"] >= 0.8
    assert told["rewards"]["emoji_preference"]["teacher"] >= 0.8


class Seeing:
    """A reader that sees what it is told to."""

    name, sha256 = "told", "0" * 64

    def __init__(self, seen):
        self.seen = seen

    def looks(self, images):
        return [self.seen.pop(0) for _ in images]


def look_at(prompts, seen):
    """The results of a benchmark on pictures that show this."""
    truth = EmojiTruth(prompts, Seeing(list(seen)))
    images = torch.zeros(len(prompts.prompts), 3, 32, 32, dtype=torch.uint8)
    truth.add(None, Batch(images, 0, prompts.prompts))
    return {result.metric: result for result in truth.results()}


def shown(scene):
    """A picture that is as asked."""
    return Look(
        scene.thing,
        scene.style or "noto",
        scene.background or "white",
        scene.size or "large",
        scene.place or "center",
    )


def test_the_overall_score_is_without_what_was_held_out():
    prompts = load_prompts("emoji", HubStore()).of_all_tasks(30)
    seen = [
        None if tag == HELD_OUT else shown(scene)
        for tag, scene in zip(prompts.tags, prompts.requests, strict=True)
    ]
    found = look_at(prompts, seen)
    assert found["emoji"].value == 1
    assert found["emoji"].details[HELD_OUT] == found["emoji_held_out"].value == 0
    assert found["emoji"].protocol["images"] == 25
    assert set(found) == {"emoji", *(f"emoji_{task}" for task in TASKS), "emoji_held_out"}


def test_facts_are_counted_over_all_pictures_that_were_asked_for_them():
    prompts = load_prompts("emoji", HubStore()).of_all_tasks(60)
    seen = [
        shown(Scene(s.thing, s.style, "white", s.size, s.place)) if tag != "name" else None
        for tag, s in zip(prompts.tags, prompts.requests, strict=True)
    ]
    found = look_at(prompts, seen)
    facts = found["emoji"].details["facts"]
    assert facts["name"] == pytest.approx(50 / 60)
    assert facts["style"] == facts["place"] == 1
    assert facts["background"] < 0.5
    assert found["emoji_name"].value == 0
    assert found["emoji_style"].value == 1


def test_a_measurement_starts_anew_for_other_images():
    prompts = load_prompts("emoji", HubStore()).of_all_tasks(6)
    seen = [shown(scene) for scene in prompts.requests]
    truth = EmojiTruth(prompts, Seeing([None] * 6 + seen))
    for _ in range(2):
        truth.restart(6)
        truth.add(None, Batch(torch.zeros(6, 3, 32, 32), 0, prompts.prompts))
    assert truth.results()[0].details["facts"]["name"] == 1
