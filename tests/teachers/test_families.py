"""Every family from its published files to a one-step student, through the CLI, on a fake Hub."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.registry import load_teacher
from tests.helpers import published
from tests.helpers.students import PROMPTS, PUBLISH, TEXT

pytestmark = pytest.mark.usefixtures("room_enough")

SHORT_RUN = (
    "train.steps=2",
    "train.batch_size=2",
    "train.accumulate=1",
    "monitor.preview_every=2",
    "monitor.preview_images=2",
)
CLASS_FAMILIES = {name: publish for name, publish in PUBLISH.items() if name not in TEXT}
TEXT_FAMILIES = {name: publish for name, publish in PUBLISH.items() if name in TEXT}
# Whose student goes on against real images here; others do so in tests of the losses.
REFINED = ("halton-tiny", "showo", "muddit", "lumina-dimoo")
# Whose files are damaged on their way here: of each the end of a name, and what it must be told as.
DAMAGED = {
    "halton-tiny": ("ImageNet_256_tiny.pth", "vq_ds16_c2i.pt"),
    "showo": ("pytorch_model.safetensors",),
    "muddit": (
        "512/transformer/diffusion_pytorch_model.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors",
    ),
    "lumina-dimoo": (
        "model-00002-of-00004.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors",
    ),
}


def flags(architecture, *values):
    """`--set` flags; the first describes a golden-size model."""
    described = f"teacher.architecture={json.dumps(architecture)}"
    return [part for value in (described, *values) for part in ("--set", value)]


def succeed(result):
    """The JSON document of a command that must not fail."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def assert_nothing_twice(downloads):
    assert downloads
    assert len(downloads) == len(set(downloads))


@pytest.mark.parametrize("name", CLASS_FAMILIES)
def test_a_class_teacher_is_distilled_and_sampled_from_its_published_files(
    dimo, fake_hub, golden, name
):
    model = flags(CLASS_FAMILIES[name](fake_hub, golden))
    run = succeed(dimo("distill", "--preset", name, *model, *flags({}, *SHORT_RUN)[2:], "--json"))
    drawn = ("--class", 1, "-n", 2, "--json")
    teacher = succeed(dimo("sample", "--preset", name, "--teacher", "--steps", 3, *drawn, *model))
    assert teacher["sampler"]["sampler"] == "published"
    downloads = fake_hub.downloads()
    assert_nothing_twice(downloads)
    student = succeed(dimo("sample", "--student", run["run"], *drawn))
    assert student["sampler"]["steps"] == 1
    assert Image.open("samples.png").height >= 64
    beside = succeed(dimo("sample", "--student", run["run"], "--teacher", "--steps", 2, *drawn))
    assert beside["sampler"]["network"] == f"teacher:{name}"
    assert fake_hub.downloads() == downloads


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_a_text_teacher_is_distilled_and_sampled_from_its_published_files(
    dimo, fake_hub, golden, tmp_path, name
):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    model = flags(TEXT_FAMILIES[name](fake_hub, golden))
    short = flags({}, *SHORT_RUN, "condition.prompts=prompts.txt")[2:]
    run = succeed(dimo("distill", "--preset", name, *model, *short, "--json"))
    drawn = ("--prompt", PROMPTS[0], "-n", 2, "--json")
    teacher = succeed(dimo("sample", "--preset", name, "--teacher", "--steps", 3, *drawn, *model))
    assert teacher["prompts"] == [PROMPTS[0]] * 2
    downloads = fake_hub.downloads()
    assert_nothing_twice(downloads)
    student = succeed(dimo("sample", "--student", run["run"], *drawn))
    assert student["sampler"]["steps"] == 1
    assert fake_hub.downloads() == downloads


def photos(folder, count):
    """A folder of pictures, each with a caption beside it."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 70, 60, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(index % 2) / f"{index}.png")
        (folder / str(index % 2) / f"{index}.txt").write_text(PROMPTS[index % len(PROMPTS)])


@pytest.mark.parametrize("name", REFINED)
def test_a_student_goes_on_against_real_images(dimo, fake_hub, golden, tmp_path, name):
    model = flags(PUBLISH[name](fake_hub, golden))
    photos(tmp_path / "photos", 4)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    asked = ["condition.prompts=prompts.txt"] if name in TEXT else []
    short = flags({}, *SHORT_RUN, *asked)[2:]
    succeed(dimo("data", "encode", "photos", "--preset", name, *model, "-o", "tokens", "--json"))
    run = succeed(dimo("distill", "--preset", name, *model, *short, "--json"))["run"]
    now = flags({}, *SHORT_RUN, *asked, "gan.data=tokens", "gan.start=0", "gan.heads=2")[2:]
    refined = succeed(dimo("refine", run, "--gan", *now, "--out", "refined", "--json"))
    last = json.loads((tmp_path / "refined" / "log.jsonl").read_text().splitlines()[-1])
    assert {"gan_loss", "discriminator_loss", "divergence"} <= set(last)
    drawn = ("--prompt", PROMPTS[0]) if name in TEXT else ("--class", 1)
    assert succeed(dimo("sample", "--student", refined["run"], *drawn, "-n", 2, "--json"))


@pytest.mark.parametrize(("name", "file"), [(n, file) for n in DAMAGED for file in DAMAGED[n]])
def test_a_damaged_file_is_told_and_fetched_anew(dimo, fake_hub, golden, name, file):
    model = flags(PUBLISH[name](fake_hub, golden))
    drawn = ("--prompt", PROMPTS[0]) if name in TEXT else ("--class", 1)
    ask = ("sample", "--preset", name, "--teacher", "--steps", 2, *drawn, "-n", 1, *model)
    for fault, words in (("always wrong bytes", "damaged"), ("always 403", "refuses access")):
        fake_hub.faults[file] = [fault]
        result = dimo(*ask)
        assert result.exit_code == 3
        assert file in result.stderr
        assert words in result.stderr
    fake_hub.faults.clear()
    result = dimo(*ask)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", ["halton-base"])
def test_another_file_than_the_published_one_is_refused(dimo, fake_hub, golden, name):
    published.publish_halton(fake_hub, golden)
    files = fake_hub.files
    stranger = next(content for (_, path), content in files.items() if path.startswith("ImageNet"))
    fake_hub.add("llvictorll/Halton-MaskGIT", "ImageNet_256_base.pth", stranger)
    result = dimo("sample", "--preset", name, "--teacher", "--class", 1, "-n", 1)
    assert result.exit_code == 3
    assert "ImageNet_256_base.pth" in result.stderr
    assert fake_hub.downloads() == []


def test_every_sampler_draws_from_every_kind_of_token_space(dimo, fake_hub, golden):
    for name, publish in CLASS_FAMILIES.items():
        model = flags(publish(fake_hub, golden))
        for sampler in ("published", "random", "confidence", "halton", "theta"):
            document = succeed(
                dimo("sample", "--preset", name, "--teacher", "--sampler", sampler, "--steps", 4,
                     "--guidance", 2, "-n", 1, "--json", *model)
            )  # fmt: skip
            assert document["sampler"]["sampler"] == sampler
            assert document["sampler"]["guidance"] == 2


def test_the_prompts_of_a_run_are_encoded_once_ever(dimo, fake_hub, golden, tmp_path, monkeypatch):
    from dimo_cli.teachers.hub_text import HubTextEncoder

    encoded, encode = [], HubTextEncoder.encode

    def watched(self, prompts):
        encoded.extend(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(HubTextEncoder, "encode", watched)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = flags(published.publish_amused(fake_hub, golden))
    short = flags({}, *SHORT_RUN, "train.steps=6", "condition.prompts=prompts.txt")[2:]
    for folder in ("one", "two"):
        succeed(dimo("distill", "--preset", "amused-256", *model, *short, "-o", folder, "--json"))
    assert sorted(encoded) == sorted(["", *PROMPTS])


def accept_teacher(name, architecture):
    """As a user does who has a teacher of their own: from then on its students are sampled."""
    load_teacher(TeacherSource(name=name, architecture=architecture), with_backbone=False)


def test_the_published_one_step_students_of_others_are_sampled(dimo, fake_hub, golden, monkeypatch):
    """`dimo sample --student Yuanzhi/DiMO` without the teacher's own weights."""
    import dimo_cli.students.published as module

    models = {
        "maskgit": published.publish_maskgit(fake_hub, golden),
        "meissonic": published.publish_meissonic(fake_hub, golden),
    }
    monkeypatch.setattr(  # golden size instead of the published one
        module,
        "foreign_source",
        lambda name: TeacherSource(name=name, architecture=models[name]),
    )
    accept_teacher("maskgit", models["maskgit"])
    last = str(models["maskgit"]["nclass"] - 1)
    drawn = ("--class", last, "-n", 2, "--json")
    by_class = succeed(dimo("sample", "--student", "Yuanzhi/DiMO", *drawn))
    assert by_class["classes"] == [last, last]
    by_prompt = succeed(
        dimo("sample", "--student", "Yuanzhi/DiMO", "--prompt", "a fox", "-n", 1, "--json")
    )
    assert by_prompt["prompts"] == ["a fox"]
    named = dimo("sample", "--student", "Yuanzhi/DiMO/maskgit", "--class", 1, "-n", 1)
    assert named.exit_code == 0, named.stderr
    wrong = dimo("sample", "--student", "Yuanzhi/DiMO/maskbit", "--class", 3)
    assert wrong.exit_code == 2
    assert "Yuanzhi/DiMO/meissonic" in wrong.stderr
    heavy = [path for path in fake_hub.downloads() if "MaskGIT_ImageNet" in path]
    assert heavy == []


def test_what_is_not_there_is_said_with_exit_3(dimo, fake_hub):
    result = dimo("sample", "--preset", "maskbit", "--teacher", "--class", 207)
    assert result.exit_code == 3
    assert "markweber/maskbit_generator_14bit" in result.stderr
    result = dimo("sample", "--student", "some/body", "--class", 3)
    assert result.exit_code == 3
    assert "neither a folder here nor a student on the Hub" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("distill", "--preset", "meissonic"), "condition.prompts=FILE"),
        (("distill", "--preset", "meissonic", "--set", "condition.prompts=no.txt"), "no.txt"),
        (("sample", "--preset", "meissonic", "--teacher"), "Add `--prompt"),
        (("sample", "--preset", "meissonic", "--teacher", "--class", "3"), "prompts"),
        (("sample", "--preset", "maskgit", "--teacher", "--prompt", "a fox"), "takes classes"),
        (("sample", "--preset", "maskgit"), "add --teacher"),
        (("distill", "--preset", "maskgit", "--set", "condition.prompts=x.txt"), "takes classes"),
        (("distill", "--preset", "maskgit", "--set", "teacher.negative_prompt=x"), "takes classes"),
        (("sample", "--student", "digits", "--prompt", "a fox"), "takes classes"),
    ],
)
def test_a_condition_of_the_wrong_kind_is_refused(dimo, fake_hub, golden, arguments, words):
    models = {
        "meissonic": published.publish_meissonic(fake_hub, golden),
        "maskgit": published.publish_maskgit(fake_hub, golden),
    }
    name = next((part for part in arguments if part in models), None)
    result = dimo(*arguments, *(flags(models[name]) if name else []))
    assert result.exit_code in (2, 3)
    assert words in result.stderr


def test_a_local_folder_replaces_the_hub(dimo, fake_hub, golden, tmp_path):
    model = flags(published.publish_maskbit(fake_hub, golden))
    for (repo, path), content in fake_hub.files.items():
        (tmp_path / "files" / repo).mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / repo / path).write_bytes(content)
    fake_hub.files.clear()
    place = ("--local-dir", "files")
    short = flags({}, *SHORT_RUN)[2:]
    run = succeed(dimo("distill", "--preset", "maskbit", *model, *short, *place, "--json"))
    succeed(dimo("sample", "--student", run["run"], "--class", 1, "-n", 1, *place, "--json"))
    assert fake_hub.downloads() == []


README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.split("## Published teachers")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^dimo (.+?)(?:  +#.*)?$", SECTION, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_for_published_teachers_run(
    dimo, fake_hub, golden, tmp_path, monkeypatch, command
):
    """With golden sizes for the published ones, and few enough steps for them."""
    models = {
        "maskgit": published.publish_maskgit(fake_hub, golden),
        "maskbit": published.publish_maskbit(fake_hub, golden),
        "meissonic": published.publish_meissonic(fake_hub, golden),
    }
    named = re.search(r"--preset (\w+)", command)
    if named and "presets show" not in command:
        monkeypatch.setenv("DIMO_TEACHER__ARCHITECTURE", json.dumps(models[named[1]]))
    monkeypatch.setattr(
        "dimo_cli.students.published.foreign_source",
        lambda name: TeacherSource(name=name, architecture=models[name]),
    )
    if "--student" in command:
        accept_teacher("maskgit", models["maskgit"])
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    if command.startswith("distill"):
        for setting in SHORT_RUN:
            name, value = setting.split("=")
            monkeypatch.setenv(f"DIMO_{name.upper().replace('.', '__')}", value)
    few = re.sub(r"--steps \d+", "--steps 4", command)
    few = re.sub(r'--class (207|n\d+|"[^"]+")', "--class 3", few)
    result = dimo(*shlex.split(few))
    assert result.exit_code == 0, f"dimo {command}\n{result.stderr}"


def test_the_readme_shows_at_least_nine_commands_for_published_teachers():
    assert len(COMMANDS) >= 9
