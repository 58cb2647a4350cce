"""GenEval's rules: golden verdicts exactly, and the six tasks on pictures whose truth is known."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import SpecError
from dimo_cli.metrics.geneval import (
    Detection,
    GenEval,
    Rules,
    ShapesGenEval,
    judge,
    keep,
    overlap,
    relations,
    task_scores,
)
from dimo_cli.metrics.geneval_requests import CLASSES, Request
from dimo_cli.metrics.prompts import PromptSet, drawn_by_world, geneval_set
from dimo_cli.teachers.shapes.world import compose, near_miss, render


@pytest.fixture(scope="module")
def rules(golden):
    return golden("metrics/geneval_rules.json")


@pytest.fixture(scope="module")
def numbers(rules):
    return Rules(**rules["parameters"])


class GoldenCase:
    """A golden case, with the colors that it gives to its boxes."""

    def __init__(self, case):
        self.request = Request.model_validate(case["metadata"])
        self.detections, self.colors = {}, {}
        for name, rows in case["detections"].items():
            found = [Detection(tuple(row["box"]), row["score"]) for row in rows]
            self.detections[name] = found
            self.colors |= {id(thing): row["color"] for thing, row in zip(found, rows, strict=True)}
        self.kept, self.correct = case["kept"], case["correct"]

    def colors_of(self, name, objects):
        return [self.colors[id(thing)] for thing in objects]


@pytest.fixture(scope="module")
def cases(rules):
    return [GoldenCase(case) for case in rules["cases"]]


def test_the_golden_cases_keep_the_same_boxes(cases, numbers):
    assert cases
    for case in cases:
        kept = keep(case.detections, case.request.tag, numbers)
        assert {name: len(found) for name, found in kept.items()} == case.kept
        for found in kept.values():
            assert all(a.score >= b.score for a, b in pairwise(found))


def test_the_golden_cases_get_the_same_verdict(cases, numbers):
    for case in cases:
        kept = keep(case.detections, case.request.tag, numbers)
        verdict = judge(case.request, kept, case.colors_of, numbers)
        assert verdict.correct == case.correct, case.request
        assert bool(verdict.reasons) != case.correct


def test_the_golden_pairs_have_the_same_relations_and_overlap(rules, numbers):
    for pair in rules["relative_position"]:
        found = relations(pair["a"], pair["b"], numbers.position_threshold)
        assert sorted(found) == sorted(pair["relations"])
        assert overlap(pair["a"], pair["b"]) == pytest.approx(pair["iou"], rel=1e-9)


def test_the_golden_scores_are_means_of_tasks(rules):
    tags = [case["metadata"]["tag"] for case in rules["cases"]]
    scores = task_scores(tags, [float(case["correct"]) for case in rules["cases"]])
    assert scores.pop("overall") == pytest.approx(rules["overall"], abs=1e-12)
    assert scores == pytest.approx(rules["task_scores"], abs=1e-12)


def things(*scores, step=50.0):
    return [Detection((step * i, 0.0, step * i + 20, 20.0), s) for i, s in enumerate(scores)]


def no_colors(name, objects):
    raise AssertionError("no color was asked for")


def test_there_are_coco_s_80_classes_under_geneval_s_names():
    assert len(set(CLASSES)) == 80
    assert (CLASSES[0], CLASSES[-1]) == ("person", "toothbrush")
    renamed = {64: "computer mouse", 65: "tv remote", 66: "computer keyboard"}
    assert {n: CLASSES[n] for n in renamed} == renamed


def test_thresholds_are_exclusive_and_higher_for_counting():
    found = {"dog": things(0.3, 0.31, 0.9, 0.91)}
    assert [t.score for t in keep(found, "colors", Rules())["dog"]] == [0.91, 0.9, 0.31]
    assert [t.score for t in keep(found, "counting", Rules())["dog"]] == [0.91]
    assert keep({"dog": things(0.1)}, "colors", Rules()) == {}


def test_at_most_sixteen_of_a_class_count():
    assert len(keep({"dog": things(*[0.5] * 40)}, "colors", Rules())["dog"]) == 16


def test_overlapping_objects_are_dropped_only_if_asked_for():
    twice = {"dog": [Detection((0, 0, 99, 99), 0.8), Detection((0, 0, 99, 89), 0.9)]}
    assert len(keep(twice, "colors", Rules())["dog"]) == 2
    (best,) = keep(twice, "colors", Rules(max_overlap=0.9))["dog"]
    assert best.score == 0.9
    assert len(keep(twice, "colors", Rules(max_overlap=0.95))["dog"]) == 2


def test_colors_are_asked_of_the_surest_objects_only():
    wanted = [{"class": "dog", "count": 2, "color": "red"}]
    request = Request(tag="colors", include=wanted, prompt="two red dogs")
    asked = []

    def colors_of(name, objects):
        asked.append((name, len(objects)))
        return ["red", "blue"]

    verdict = judge(request, {"dog": things(0.9, 0.8, 0.7)}, colors_of)
    assert asked == [("dog", 2)]
    assert verdict.reasons == ("dog is red, blue, not red",)


def test_a_place_is_judged_against_every_target_and_missing_targets_are_wrong():
    entries = [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]
    entries[1]["position"] = ["right of", 0]
    request = Request(tag="position", include=entries, prompt="a dog right of a cat")
    left, right = things(0.9, 0.8, step=100.0)
    assert judge(request, {"cat": [left], "dog": [right]}, no_colors).correct
    assert not judge(request, {"cat": [right], "dog": [left]}, no_colors).correct
    assert len(judge(request, {"dog": [right]}, no_colors).reasons) == 2


def test_boxes_at_one_place_have_no_relation():
    box = (10.0, 10.0, 20.0, 20.0)
    assert relations(box, box, 0.1) == set()
    assert relations((10.5, 10.0, 20.5, 20.0), box, 0.1) == set()


GOOD = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}


@pytest.fixture
def small_set():
    """One prompt of every task, two images each."""
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    requests = [Request.model_validate({**GOOD, "tag": tag, "prompt": f"a {tag}"}) for tag in tags]
    return geneval_set(requests, [f"{n:05d}" for n in range(6)], 2)


class Stub:
    """A detector that sees a dog in every image that is not black."""

    name = "stub"

    def protocol(self):
        return {"detector": "stub-1", "detector_sha256": "0" * 64}

    def detect(self, image):
        return {"dog": things(0.95)} if image.any() else {}

    def colors(self, image, name, objects):
        return ["red"] * len(objects)


def batches(images, prompts, size):
    for first in range(0, len(images), size):
        part = images[first : first + size]
        yield Batch(part, first, prompts.prompts_of(first, len(part)))


def by_name(metric):
    return {result.metric: result for result in metric.results()}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_the_metric_has_six_tasks_and_the_name_of_its_detector(small_set, size):
    images = torch.zeros(12, 3, 4, 4, dtype=torch.uint8)
    images[:7] = 9  # three prompts with both images, one with its first
    metric = GenEval(Stub(), small_set)
    for batch in batches(images, small_set, size):
        metric.add(None, batch)
    found = by_name(metric)
    assert list(found) == ["geneval_stub", *(f"geneval_stub_{tag}" for tag in small_set.tags)]
    assert found["geneval_stub"].value == pytest.approx(3.5 / 6)
    assert found["geneval_stub_colors"].value == 0.5
    details = found["geneval_stub"].details
    assert details["correct_images"] == pytest.approx(7 / 12)
    assert details["correct_prompts"] == pytest.approx(4 / 6)
    protocol = found["geneval_stub"].protocol
    assert protocol["detector"] == "stub-1"
    assert protocol["rules"]["counting_threshold"] == 0.9
    assert (protocol["images"], protocol["prompts"]) == (12, 6)
    assert protocol["prompt_set_sha256"] == small_set.sha256


def test_images_of_other_prompts_are_refused(small_set):
    batch = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 3, ("a dog",))
    with pytest.raises(
        SpecError, match=r"Prompt 1 of `geneval` is 'a two_object'.*image 3.*for 'a dog'"
    ):
        GenEval(Stub(), small_set).add(None, batch)


def test_images_without_prompts_are_refused(small_set):
    with pytest.raises(SpecError, match="these images have none"):
        GenEval(Stub(), small_set).add(None, Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)))


def test_an_image_beyond_the_last_is_refused(small_set):
    batch = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 12, ("a dog",))
    with pytest.raises(SpecError, match="has 12 images, so none is 12"):
        GenEval(Stub(), small_set).add(None, batch)


def test_a_task_without_images_is_no_score(small_set):
    metric = GenEval(Stub(), small_set)
    images = torch.ones(10, 3, 4, 4, dtype=torch.uint8)
    for batch in batches(images, small_set, 10):
        metric.add(None, batch)
    with pytest.raises(SpecError, match="no image of the task `color_attr`"):
        metric.results()


def pictures_of(scenes):
    """Pictures of scenes with whatever they do not say drawn at random."""
    rng = random.Random(7)
    rendered = np.stack([render(*compose(scene, rng)) for scene in scenes])
    return torch.from_numpy(rendered).permute(0, 3, 1, 2)


def measured(prompts, images):
    metric = ShapesGenEval(prompts)
    for batch in batches(images, prompts, 64):
        metric.add(None, batch)
    return {result.metric.removeprefix("geneval_shapes_"): result for result in metric.results()}


def wrong_scene(scene, rng):
    """A near miss whose pictures are wrong: one more of what may be there in any number is not."""
    while True:
        wrong = near_miss(scene, rng)
        if scene.groups[0].count > 1 or wrong.groups[0].count == 1:
            return wrong


def test_the_shapes_verifier_scores_rendered_truth_one_in_all_six_tasks():
    prompts = drawn_by_world("shapes")
    found = measured(prompts, pictures_of(prompts.requests))
    assert len(found) == 7
    assert {result.value for result in found.values()} == {1.0}
    assert found["geneval_shapes"].protocol["prompt_set"] == "shapes"


def test_the_shapes_verifier_scores_wrong_scenes_zero_in_all_six_tasks():
    prompts, rng = drawn_by_world("shapes"), random.Random(3)
    wrong = [wrong_scene(scene, rng) for scene in prompts.requests]
    found = measured(prompts, pictures_of(wrong))
    assert len(found) == 7
    assert {result.value for result in found.values()} == {0.0}


def test_the_shapes_verifier_reads_no_other_size():
    prompts = drawn_by_world("shapes")
    batch = Batch(torch.zeros(1, 3, 64, 48, dtype=torch.uint8), 0, prompts.prompts[:1])
    with pytest.raises(SpecError, match="32 x 32 pixels, not 48 x 64"):
        ShapesGenEval(prompts).add(None, batch)


def test_a_prompt_set_hashes_what_is_asked_not_where_it_was_read(small_set):
    assert small_set.sha256 == geneval_set(small_set.requests, "abcdef", 2).sha256
    other = PromptSet("geneval", small_set.prompts, small_set.tags)
    assert small_set.sha256 != other.sha256
