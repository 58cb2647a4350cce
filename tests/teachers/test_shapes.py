"""The world of `shapes`: what captions say is on the pictures, and the verifier knows."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.geneval import task_scores
from dimo_cli.metrics.shapes import TASKS, benchmark, is_true, read_picture
from dimo_cli.rewards.registry import load_reward
from dimo_cli.rewards.shapes import (
    CARDS,
    ClipReward,
    PreferenceReward,
    ShapesClip,
    ShapesJudge,
    ShapesWitness,
    WitnessReward,
)
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import (
    SUMMARY,
    WIDTH,
    WORDS,
    ShapesBackbone,
    ShapesText,
    words_of,
    words_to_ids,
)
from dimo_cli.teachers.shapes.tokenizer import CODES, ShapesTokenizer


@pytest.fixture
def rng():
    return random.Random(0)


def draw(scene, rng):
    return world.render(*world.compose(scene, rng))


def test_every_picture_is_true_of_its_own_scene(rng):
    for _ in range(150):
        scene = world.random_scene(rng)
        assert is_true(scene, draw(scene, rng)), scene


def test_no_picture_is_true_of_a_near_miss(rng):
    for _ in range(150):
        scene = world.random_scene(rng)
        assert not is_true(world.near_miss(scene, rng), draw(scene, rng)), scene


def test_the_verifier_reads_every_object_exactly(rng):
    for _ in range(60):
        things, background = world.compose(world.random_scene(rng), rng)
        found, seen = read_picture(world.render(things, background))
        assert seen == background
        assert sorted(map(repr, found)) == sorted(map(repr, things))


def test_what_is_unsaid_is_as_in_a_picture_book(rng):
    pair = world.Scene((world.Group("circle"), world.Group("square")))
    for _ in range(50):
        (circle, square), _ = world.compose(pair, rng)
        assert (circle.size, circle.shape, square.shape) == ("large", "circle", "square")
        assert circle.x < square.x
        assert circle.y == square.y


def test_objects_of_a_group_look_the_same_whatever_color_they_are(rng):
    three, seen = world.Scene((world.Group("circle", 3),)), set()
    for _ in range(50):
        things, _ = world.compose(three, rng)
        (look,) = {(thing.color, thing.size) for thing in things}
        seen.add(look)
    assert len(seen) == len(world.COLORS)


def test_lines_are_spread_over_the_picture_and_objects_over_their_line(rng):
    def places(*groups, relation=None):
        things, _ = world.compose(world.Scene(groups, relation), rng)
        return [(thing.x, thing.y) for thing in things]

    circle, square = world.Group("circle", size="small"), world.Group("square", size="small")
    three = world.Group("circle", 3)
    assert places(circle) == [(16, 16)]
    assert places(three, square) == [(4, 4), (16, 4), (28, 4), (16, 28)]
    assert places(circle, square, relation="left") == [(4, 16), (28, 16)]
    assert places(circle, square, relation="below") == [(16, 4), (16, 28)]


def scores(tasks, pictures):
    """Share of true pictures by task, and overall."""
    correct = [is_true(task.scene, picture) for task, picture in zip(tasks, pictures, strict=True)]
    return task_scores((task.name for task in tasks), correct)


def test_rendered_truth_scores_one_on_all_six_tasks(rng):
    tasks = benchmark(8)
    found = scores(tasks, [draw(task.scene, rng) for task in tasks])
    assert found == {**dict.fromkeys(TASKS, 1.0), "overall": 1.0}


def test_an_empty_or_noisy_picture_scores_nothing():
    tasks = benchmark(4)
    flat = np.full((32, 32, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for picture in (flat, noise):
        assert scores(tasks, [picture] * len(tasks))["overall"] == 0


def test_counting_is_exact_but_one_object_may_have_company(rng):
    two = world.Scene((world.Group("circle", 2, "red"),))
    picture = draw(two, rng)
    assert is_true(world.Scene((world.Group("circle", 1, "red"),)), picture)
    assert not is_true(world.Scene((world.Group("circle", 3, "red"),)), picture)


def test_captions_vary_use_known_words_and_fit(rng):
    captions = set()
    for _ in range(400):
        words = world.caption(world.random_scene(rng), rng)
        captions.add(words)
        assert set(words.split()) <= set(world.vocabulary())
    assert len(captions) > 300
    assert int((words_to_ids(list(captions)) > 0).sum(1).max()) <= WORDS


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("A Red CIRCLE!", "a red circle"),
        ("two  red circles.", "two red circles"),
        ("  a red circle, and a blue square?!  ", "a red circle and a blue square"),
        ("a circle on a grey background", "a circle on a gray background"),
        ("a orange square", "an orange square"),
        ("an red square above a orange circle", "a red square above an orange circle"),
        ("3 small triangles", "three small triangles"),
        ('"one red circle"', "one red circle"),
    ],
)
def test_a_prompt_may_be_written_as_people_write(typed, meant):
    assert words_to_ids([typed]).equal(words_to_ids([meant]))


def test_captions_are_read_as_they_are(rng):
    """So that no picture of a caption changes."""
    for _ in range(500):
        words = world.caption(world.random_scene(rng), rng)
        assert words_of(words) == words.split()


def test_a_strange_word_is_refused_with_the_nearest_one():
    with pytest.raises(SpecError, match="does not know the word `traingle`") as caught:
        words_to_ids(["a red traingle"])
    assert caught.value.hint.startswith("Did you mean `triangle`? It knows: ")


def test_a_word_that_the_world_does_not_have_is_refused_by_name():
    with pytest.raises(SpecError, match="does not know the word `dog`") as caught:
        words_to_ids(["two red circles", "a dog"])
    assert "triangle" in caught.value.hint
    with pytest.raises(SpecError, match="at most 22 words"):
        words_to_ids(["a " * 23])


def test_the_benchmark_is_the_same_for_a_seed_and_asks_for_one_thing_each():
    assert benchmark(3, seed=1) == benchmark(3, seed=1) != benchmark(3, seed=2)
    for task in benchmark(5):
        assert (task.scene.relation is not None) == (task.name == "position")


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return ShapesBackbone().eval(), ShapesTokenizer().eval(), ShapesText().eval()


def test_soft_embeddings_and_soft_decoding_equal_the_hard_ones_on_one_hots(networks):
    backbone, tokenizer, _ = networks
    tokens = torch.randint(CODES, (2, 64, 1))
    sure = torch.nn.functional.one_hot(tokens, CODES).float()
    torch.testing.assert_close(backbone.embed_probs(sure), backbone.embed(tokens))
    torch.testing.assert_close(
        tokenizer.decode_probs(sure), tokenizer.decode(tokens), atol=1e-5, rtol=1e-4
    )
    mask = torch.rand(2, 64, 1) < 0.5
    hidden = tokens.masked_fill(mask, CODES)
    torch.testing.assert_close(backbone.embed_probs(sure, mask), backbone.embed(hidden))


def test_a_flat_patch_has_one_code_wherever_it_is(networks):
    _, tokenizer, _ = networks
    picture = torch.zeros(1, 3, 32, 32)
    picture[..., 8:20, 8:20] = 0.7
    codes = tokenizer.encode(picture)[0, :, 0].view(8, 8)
    assert len(codes[:, :2].unique()) == 1
    assert codes[0, 0] == codes[7, 7]


def test_text_and_image_tokens_reach_each_other(networks):
    backbone, _, text = networks
    tokens = torch.full((2, 64, 1), CODES)
    states = text(words_to_ids(["a red circle", "a blue square"]))
    assert states.shape == (2, SUMMARY, WIDTH)
    logits = backbone(tokens, Cond({"text": states}))
    assert logits.shape == (2, 64, 1, CODES)
    assert not torch.allclose(logits[0], logits[1])


REWARDS = {
    "shapes_clip": lambda: ClipReward(CARDS["shapes_clip"], ShapesClip()),
    "shapes_preference": lambda: PreferenceReward(
        CARDS["shapes_preference"], ShapesJudge(), ShapesText()
    ),
    "shapes_witness": lambda: WitnessReward(CARDS["shapes_witness"], ShapesWitness()),
}


@pytest.mark.parametrize("name", REWARDS)
def test_the_cards_of_embedded_rewards_count_their_parameters(name):
    reward = REWARDS[name]()
    assert reward.card.parameters == sum(p.numel() for p in reward.parameters())


@pytest.mark.parametrize("name", REWARDS)
def test_embedded_rewards_are_differentiable_to_the_pixels(name):
    reward = REWARDS[name]()
    images = torch.rand(3, 3, 32, 32).mul(1.8).sub(0.9).requires_grad_()
    scores_seen = reward(images, reward.prepare(["a red circle", "two squares", "a red circle"]))
    assert scores_seen.shape == (3,)
    (gradient,) = torch.autograd.grad(scores_seen.sum(), images)
    assert bool((gradient.flatten(1).abs().sum(1) > 0).all())


@pytest.mark.parametrize(
    ("name", "least"), [("shapes_clip", 170), ("shapes_preference", 198), ("shapes_witness", 198)]
)
def test_embedded_rewards_prefer_what_is_true(name, least, rng):
    reward = load_reward(name, HubStore())
    wins = 0
    for _ in range(200):
        scene = world.random_scene(rng)
        prompts = [world.caption(s, rng) for s in (scene, world.near_miss(scene, rng))]
        image = torch.from_numpy(draw(scene, rng)).permute(2, 0, 1) / 127.5 - 1
        true, false = reward(image.expand(2, -1, -1, -1), reward.prepare(prompts)).tolist()
        wins += true > false
    assert wins >= least


@pytest.mark.parametrize(
    ("name", "overall", "of_students"),
    [("shapes_preference", 0.98, 0.95), ("shapes_witness", 0.97, 0.95)],
)
def test_the_judges_that_ship_tell_true_from_false_on_held_out_captions(name, overall, of_students):
    """As `examples/examine_shapes_judges.py` found of these very weights."""
    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "shapes_judges.json"
    exam = json.loads(kept.read_text(encoding="utf-8"))
    assert exam["weights"][name] == file_sha256(Path(builtin_path(f"{name}.safetensors")))
    assert exam["judges"][name]["all"]["verifier"]["auc"] >= overall
    assert exam["judges"][name]["student"]["verifier"]["auc"] >= of_students


def test_the_text_encoder_tells_what_is_said_and_not_how():
    conditioner = load_teacher("shapes").conditioner
    said, alike, swapped = (
        conditioner.prompts([prompt]).tensors["text"]
        for prompt in (
            "a red circle above a blue square",
            "an image of one red circle over one blue square",
            "a blue square above a red circle",
        )
    )
    assert (said - alike).norm() < 0.5 * (said - swapped).norm()


def test_the_embedded_teacher_draws_from_plain_english(dimo):
    call = ("sample", "--preset", "shapes", "--teacher", "--steps", "4", "-n", "2", "--json")
    result = dimo(*call, "--prompt", "two red circles above a blue square")
    assert result.exit_code == 0, result.stderr
    assert dimo(*call, "--prompt", "a dog").exit_code == 2
    assert dimo(*call, "--class", "3").exit_code == 2


def test_the_embedded_teacher_is_distilled_without_any_settings(dimo):
    quick = [part for value in ("train.steps=2", "train.batch_size=2", "monitor.preview_images=2",
                                "monitor.fid_every=0",
                                "monitor.table_samples=100", "monitor.teacher_steps=[1]")
             for part in ("--set", value)]  # fmt: skip
    result = dimo("distill", "--preset", "shapes", *quick, "--json")
    assert result.exit_code == 0, result.stderr


def test_prompts_without_a_student_go_to_the_built_in_one(dimo, tmp_path):
    result = dimo("sample", "--prompt", "two red circles above a blue square", "-n", "2", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["sampler"]["steps"] == 1
    assert (tmp_path / "samples.png").is_file()


@pytest.mark.slow
def test_the_embedded_teacher_needs_its_steps():
    """Many steps draw what is asked far more often than one: what distillation is for."""
    from dimo_cli.sampling.samplers import sample_images
    from dimo_cli.specs.sample import SamplerSpec
    from dimo_cli.students.target import Target

    target, tasks = Target(load_teacher("shapes")), benchmark(20, seed=7)
    overall = []
    for steps in (1, 16):
        spec = SamplerSpec(teacher=True, steps=steps)
        pictures, _ = sample_images(target, [task.prompt for task in tasks], spec)
        overall.append(scores(tasks, list(pictures))["overall"])
    assert overall[1] > overall[0] + 0.2
