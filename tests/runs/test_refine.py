"""`dimo refine` and `dimo tteo` from flags to folders, with golden teachers and a toy reward."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dimo_cli.rewards.protocol import Reward, RewardText
from dimo_cli.teachers.registry import load_teacher
from tests.helpers import published
from tests.helpers.students import PUBLISH, golden_student
from tests.teachers.test_families import PROMPTS, SHORT_RUN, accept_teacher, flags, succeed

pytestmark = pytest.mark.usefixtures("room_enough")

QUICK = flags(
    {},
    "train.steps=3",
    "train.batch_size=8",
    "train.log_every=1",
    "monitor.fid_every=0",
    "monitor.table_samples=0",
    "monitor.preview_every=100",
    "monitor.preview_images=2",
)[2:]


class Brightness(Reward):
    """How bright an image is; what the prompt says does not matter."""

    def __init__(self):
        nn.Module.__init__(self)
        self.name, self.network, self.weight = "clip", nn.Identity(), nn.Parameter(torch.ones(1))

    def encode(self, prompts):
        return {}

    def score(self, pixels, text):
        return pixels.mean((1, 2, 3))

    def prepare(self, prompts):
        return RewardText(tuple(prompts), {})

    def forward(self, images, text):
        return self.score(images, text)


@pytest.fixture
def toy_reward(monkeypatch):
    monkeypatch.setattr(
        "dimo_cli.rewards.registry.load_reward", lambda name, store, device: Brightness()
    )


@pytest.fixture
def text_student(dimo, fake_hub, golden, tmp_path):
    """A one-step student of a golden-size text teacher."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = flags(published.publish_amused(fake_hub, golden))
    short = flags({}, *SHORT_RUN, "condition.prompts=prompts.txt")[2:]
    return succeed(dimo("distill", "--preset", "amused-256", *model, *short, "--json"))["run"]


def last_log(run):
    return json.loads((run / "log.jsonl").read_text().splitlines()[-1])


def test_the_built_in_student_is_refined_against_real_digits(dimo, tmp_path):
    now = ("--set", "gan.start=0")
    run = succeed(dimo("refine", "digits", "--gan", *QUICK, *now, "--out", "r", "--json"))
    record = last_log(tmp_path / "r")
    assert {"gan_loss", "gan_weight", "discriminator_loss", "divergence"} <= set(record)
    manifest = json.loads((tmp_path / "r" / "student" / "dimo.json").read_text())
    assert "GAN" in manifest["training"]["method"]
    assert manifest["init"]["embed_noise"]["sigma"] == 0.0
    drawn = succeed(dimo("sample", "--student", run["run"], "-n", 2, "--json"))
    assert drawn["images"] == 2
    again = dimo("refine", "r", "--gan", *QUICK, "--out", "r2")
    assert again.exit_code == 0, again.stderr


def test_a_refinement_may_start_from_the_teacher_itself(dimo, tmp_path):
    begin = ("refine", "teacher", "--preset", "digits-gan", *QUICK)
    succeed(dimo(*begin, "--set", "gan.start=0", "--out", "r", "--json"))
    first = load_file(tmp_path / "r" / "checkpoints" / "step-0" / "student.safetensors")
    teacher = load_teacher("digits").backbone.state_dict()
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in first.items())
    assert "gan_loss" in last_log(tmp_path / "r")


def test_the_auxiliary_goes_on_from_the_run_that_the_student_is_from(dimo, tmp_path):
    going_on = ("--gan", *QUICK, "--set", "auxiliary.start=run")
    refused = dimo("refine", "digits", *going_on)
    assert refused.exit_code == 3
    assert "`digits` is no run folder" in refused.stderr
    succeed(dimo("refine", "digits", "--gan", *QUICK, "-o", "a", "--json"))
    for name, start in (("run", "run"), ("teacher", "teacher")):
        choice = ("--set", f"auxiliary.start={start}")
        succeed(dimo("refine", "a", "--gan", *QUICK, *choice, "-o", name, "--json"))
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    anew = json.loads((tmp_path / "teacher" / "log.jsonl").read_text().splitlines()[0])
    assert anew["divergence"] == pytest.approx(0, abs=1e-5)
    assert first["divergence"] > 1e-4


def weighed_by(kind, steps):
    """Flags of a short refinement whose samples the discriminator weighs."""
    sets = ("loss.divergence=rkl", "gan.start=0", f"gan.bregman={kind}", f"train.steps={steps}")
    return (*QUICK, *(part for setting in sets for part in ("--set", setting)))


@pytest.mark.parametrize("kind", ["neyman", "forward_kl", "jensen_shannon"])
def test_samples_are_weighed_by_the_discriminator(dimo, tmp_path, kind):
    succeed(dimo("refine", "digits", "--gan", *weighed_by(kind, 2), "-o", "r", "--json"))
    record = last_log(tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "student" / "dimo.json").read_text())
    assert {"bregman_weight", "bregman_effective_share"} <= set(record)
    assert f"Di-Bregman {kind}" in manifest["training"]["method"]


def test_a_refinement_resumes_bit_for_bit(dimo, tmp_path):
    for name, steps in (("a", 4), ("b", 2)):
        short = weighed_by("neyman", steps)
        succeed(dimo("refine", "digits", "--gan", *short, "-o", name, "--json"))
    succeed(dimo("refine", "--resume", "b", "--set", "train.steps=4", "--json"))
    for name in ("student", "auxiliary", "discriminator", "ema"):
        one, two = (
            load_file(tmp_path / run / "checkpoints" / "step-4" / f"{name}.safetensors")
            for run in ("a", "b")
        )
        assert all(torch.equal(one[key], two[key]) for key in one), name


def test_a_text_student_is_refined_for_a_reward(dimo, text_student, toy_reward, tmp_path):
    more = flags(
        {}, "condition.prompts=prompts.txt", "reward.watch_every=1", "reward.watch_images=4"
    )
    run = succeed(
        dimo("refine", text_student, "--reward", "clip=0.2", *QUICK, *more[2:], "-o", "r", "--json")
    )
    record = last_log(tmp_path / "r")
    assert {"reward_loss", "reward_clip", "divergence", "diversity"} <= set(record)
    spec = (tmp_path / "r" / "run.yaml").read_text()
    assert "clip: 0.2" in spec
    assert run["weights_sha256"]


def test_tteo_keeps_pictures_trace_and_embeddings_and_goes_on_where_it_stopped(
    dimo, text_student, toy_reward, tmp_path
):
    call = ("tteo", text_student, "--prompts-file", "prompts.txt", "--budget", "4x2",
            "--reward", "clip=1", "--rate", 50, "--json")  # fmt: skip
    found = succeed(dimo(*call))
    assert [one["prompt"] for one in found["outcomes"]] == list(PROMPTS)
    for one in found["outcomes"]:
        assert one["score_after"] >= one["score_best_of_n"] >= one["score_before"]
        assert len(one["trace"]) == 3
        assert len(one["trace"][0]) == 4
    folder, other = (
        tmp_path / one["folder"] for one in (found["outcomes"][0], found["outcomes"][2])
    )
    assert {p.name for p in folder.iterdir()} == {
        "before.png", "after.png", "embeddings.safetensors", "outcome.json"}  # fmt: skip
    (folder / "outcome.json").unlink()
    kept = (other / "after.png").stat().st_mtime_ns
    again = succeed(dimo(*call))
    assert (other / "after.png").stat().st_mtime_ns == kept
    first, second = found["outcomes"][0]["trace"], again["outcomes"][0]["trace"]
    torch.testing.assert_close(torch.tensor(first), torch.tensor(second))


@pytest.mark.parametrize("name", ["showo", "muddit", "lumina-dimoo"])
def test_tteo_optimizes_the_students_of_other_text_teachers(
    dimo, fake_hub, golden, toy_reward, tmp_path, name
):
    student = golden_student(name, fake_hub, golden, tmp_path / "student")
    accept_teacher(name, PUBLISH[name](fake_hub, golden))
    asked = ("--prompt", PROMPTS[0], "--budget", "4x2", "--reward", "clip=1", "--rate", 50)
    (found,) = succeed(dimo("tteo", student, *asked, "--json"))["outcomes"]
    assert found["score_after"] >= found["score_best_of_n"] >= found["score_before"]
    assert len(found["trace"]) == 3


def test_tteo_stops_where_a_prompt_scores_enough(dimo, text_student, toy_reward):
    call = ("tteo", text_student, "--prompt", "a fox", "--reward", "clip=1", "--rate", 50, "--json")
    (whole,) = succeed(dimo(*call))["outcomes"]
    enough = whole["score_best_of_n"]
    (short,) = succeed(dimo(*call, "--stop-at", enough - 1e-4))["outcomes"]
    assert (len(whole["trace"]), len(short["trace"])) == (5, 1)
    assert short["score_after"] == pytest.approx(enough)
    assert short["folder"] != whole["folder"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("refine",), 2, "which student"),
        (("refine", "digits"), 2, "--gan"),
        (("refine", "teacher", "--gan"), 2, "--preset NAME"),
        (("refine", "digits", "--reward", "clip=1"), 2, "takes classes"),
        (("refine", "digits", "--reward", "clip=x"), 2, "NAME=WEIGHT"),
        (("refine", "digits", "--reward", "clp=1"), 2, "Did you mean `clip`"),
        (("refine", "nothing-here", "--gan"), 3, "does not exist"),
        (("refine", "digits", "--gan", "--set", "gan.mask_low=2"), 2, "gan.mask_low"),
        (("refine", "digits", "--gan", "--set", "gan.data=nowhere"), 3, "nowhere"),
        (("refine", "--resume", "nothing"), 3, "no run.yaml"),
        (("refine", "digits", "--resume", "x"), 2, "leave out"),
        (("refine", "--gan", "--resume", "x"), 2, "leave out"),
        (("refine", "digits", "--gan", "--set", "loss.student_input=x_tilde"), 2, "x_init"),
        (("refine", "digits", "--gan", "--set", "reward.held_out=clp"), 2, "clip"),
        (("refine", "digits", "--gan", "--set", "gan.bregman=neyman"), 2, "jeffreys, not rkl"),
        (("refine", "digits", "--gan", "--set", "gan.bregman=chi2"), 2, "neyman"),
        (("tteo", "digits", "--prompt", "a fox"), 2, "takes classes"),
        (("tteo", "digits"), 2, "no prompt"),
        (("tteo", "digits", "--prompt", "x", "--budget", "5x5"), 2, "4x4"),
        (("tteo", "digits", "--prompt", "x", "--starts", "0"), 2, "--starts"),
        (("tteo", "digits", "--prompt", "x", "--decode", "hard"), 2, "--decode"),
    ],
)
def test_mistakes_are_sentences(dimo, arguments, code, words):
    result = dimo(*arguments)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_prompts_never_share_a_folder(dimo, text_student, toy_reward):
    """Words are not enough for a name: other alphabets, and settings, must tell folders apart."""
    prompts = [part for word in ("a fox", "a Fox!") for part in ("--prompt", word)]
    call = ("tteo", text_student, *prompts, "--budget", "bon8", "--reward", "clip=1", "--json")
    first = succeed(dimo(*call))["outcomes"]
    other = succeed(dimo(*call, "--seed", 1))["outcomes"]
    assert len({one["folder"] for one in [*first, *other]}) == 4


def test_a_refinement_spec_is_checked_as_one(dimo):
    assert dimo("presets", "cp", "digits-gan", "mine.yaml").exit_code == 0
    assert dimo("spec", "check", "mine.yaml", "--refine").exit_code == 0
    assert dimo("spec", "check", "mine.yaml").exit_code == 2
    assert "gan" in json.loads(dimo("spec", "schema", "--refine").stdout)["properties"]


def test_a_dry_run_of_a_refinement_shows_where_every_setting_is_from(dimo):
    document = succeed(dimo("refine", "digits", "--gan", "--dry-run", "--json"))
    assert document["spec"]["gan"]["enabled"] is True
    assert document["origins"]["start"] == "argument STUDENT"
    assert document["fits"] is True


def test_a_run_says_how_strong_its_noise_is_for_its_teacher(dimo):
    more = ("--gan", *QUICK, "--set", "init.embed_noise=0.1", "-o", "noisy")
    told = dimo("refine", "digits", *more).stderr
    assert "Embedding noise: sigma 0.1 is" in told


LORA = ("--set", "student.lora.rank=2")


def test_a_student_of_adapters_is_refined_as_adapters_or_as_weights(dimo, tmp_path):
    begin = ("distill", "--preset", "digits", *QUICK, *LORA, "--json")
    succeed(dimo(*begin, "-o", "a"))
    succeed(dimo("refine", "a", "--gan", *QUICK, *LORA, "-o", "b", "--json"))
    assert (tmp_path / "b" / "student" / "adapter_model.safetensors").is_file()
    checkpoint = load_file(tmp_path / "b" / "checkpoints" / "step-3" / "student.safetensors")
    assert all("lora_" in name for name in checkpoint)
    going_on = (*LORA, "--set", "auxiliary.start=run")
    succeed(dimo("refine", "a", "--gan", *QUICK, *going_on, "-o", "c", "--json"))
    succeed(dimo("refine", "a", "--gan", *QUICK, "-o", "d", "--json"))
    assert (tmp_path / "d" / "student" / "model.safetensors").is_file()
    other = ("--set", "auxiliary.start=run")
    refused = dimo("refine", "a", "--gan", *QUICK, *other, "-o", "e")
    assert refused.exit_code == 2
    assert "whose auxiliary has adapters of rank 2" in refused.stderr
    refused = dimo("refine", "digits", "--gan", *QUICK, *LORA, "-o", "f")
    assert refused.exit_code == 2
    assert "dimo extract" in refused.stderr
    assert not (tmp_path / "f").exists()
