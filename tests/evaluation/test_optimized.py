"""`dimo eval --tteo`: the input of a student is optimized for a prompt before it is measured."""

import json

import pytest
import torch

from dimo_cli.evaluation.optimized import OptimizedImages
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.registry import load_rewards
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.tteo import TteoSpec, budget_name, read_budget
from dimo_cli.students.published import open_student

PROMPTS = ("a red circle", "two blue squares", "a green triangle")
BY_ITS_JUDGE = ("--tteo", "2x1", "--tteo-reward", "shapes_preference=1")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def read(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def optimized(prompts=PROMPTS, **settings):
    spec = TteoSpec(starts=2, iterations=1, rewards={"shapes_preference": 1.0}, **settings)

    def load(names):
        return load_rewards(names, HubStore(), torch.device("cpu"))

    return OptimizedImages(open_student("shapes"), spec, prompts, load)


def test_a_number_of_optimized_images_says_how_they_were_made(dimo, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    call = ("eval", "image-reward", "shapes", "--prompts", prompts)
    plain, found = read(dimo(*call, "--json")), read(dimo(*call, *BY_ITS_JUDGE, "--json"))
    assert "tteo" not in plain["subject"]
    assert found["subject"]["tteo"] == {
        "budget": "2x1",
        "rewards": {"shapes_preference": 1.0},
        "learning_rate": 0.1,
        "momentum": 0.9,
        "decode": "soft",
    }
    assert found["values"] != plain["values"]
    assert read(dimo(*call, *BY_ITS_JUDGE, "--json"))["cached"]
    shown = dimo(*call, *BY_ITS_JUDGE).stdout
    assert "shapes_preference, TTEO 2x1" in shown
    assert "no independent proof" in shown, "it selected, and now it judges"


def test_geneval_is_judged_by_what_did_not_select(dimo):
    found = read(dimo("eval", "geneval", "shapes", "--tteo", "bon2", "-n", 6, "--json"))
    assert found["subject"]["tteo"]["budget"] == "bon2"
    assert found["subject"]["tteo"]["rewards"] == {"shapes_clip": 1.0, "shapes_preference": 1.0}
    assert not any("no independent proof" in note for note in found["notes"])
    assert any("s an image" in note for note in found["notes"])


def test_an_image_does_not_depend_on_who_else_is_in_its_batch():
    images = optimized()
    together = torch.cat([batch.images for batch in images.batches(3)])
    alone = torch.cat([batch.images for batch in images.batches(1, 1, 2)])
    assert torch.equal(together[1:2], alone)
    assert together.shape == (3, 3, 32, 32)
    assert together.dtype == torch.uint8


def test_the_score_that_selects_does_not_fall():
    images = optimized(PROMPTS[:1])
    list(images.batches(1))
    ((before, after, seconds),) = images.outcomes
    assert after >= before
    assert seconds > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fid", "digits", "--tteo", "4x2"), "`digits` takes classes"),
        (("geneval", "shapes", "--tteo", "4x2", "--teacher"), "leave out --teacher"),
        (("geneval", "shapes", "--tteo", "4x2", "--steps", "4"), "leave out --steps"),
        (("geneval", "shapes", "--tteo", "4x2", "--top-k", "4"), "leave out --steps, --top-k"),
        (("geneval", "shapes", "--tteo", "4x2", "--temperature", "500"), "at most 100"),
        (("geneval", "shapes", "--tteo", "four"), "'four' is no budget: write 4x2"),
        (("geneval", "shapes", "--tteo", "0x2"), "'0x2' is no budget"),
        (("geneval", "shapes", "--tteo", "4x2", "--tteo-reward", "taste=1"), "shapes_preference"),
        (("geneval", "shapes", "--tteo-reward", "shapes_clip=1"), "add --tteo 4x2"),
        (("geneval", "images", "--tteo", "4x2"), "`images` has images already"),
    ],
)
def test_what_cannot_be_optimized_is_refused_in_a_sentence(dimo, tmp_path, arguments, told):
    (tmp_path / "images").mkdir()
    result = dimo("eval", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("text", "budget"), [("4x2", (4, 2)), ("bon16", (16, 0))])
def test_a_budget_is_read_as_it_is_written(text, budget):
    assert read_budget(text) == budget
    assert budget_name(*budget) == text


def test_the_temperature_of_the_sampler_is_that_of_the_optimization():
    spec = EvalSpec(target="shapes", tteo="4x2", sampler={"temperature": 0.5, "seed": 3})
    assert (spec.optimization.temperature, spec.optimization.seed) == (0.5, 3)
    assert EvalSpec(target="shapes").optimization is None
