"""Every preset is a run that its teacher can do, and the papers' presets hold their numbers."""

import copy
import itertools
import json

import pytest

from dimo_cli.planning.downloads import needs_of
from dimo_cli.planning.flops import (
    flops_of_drawings,
    flops_per_step,
    forward_flops,
    mean_ratio,
)
from dimo_cli.planning.memory import advice_to_fit, estimate_memory, with_train
from dimo_cli.specs.difference import differences
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import Objective
from dimo_cli.specs.resolve import (
    preset_names,
    preset_path,
    preset_summary,
    refine_preset_names,
    resolve_spec,
)
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.registry import load_skeleton, register_teacher, teacher_names
from tests.conftest import small_spec
from tests.helpers.students import PUBLISH, TEXT


def spec_of(name):
    return resolve_spec(DistillSpec, preset=name, environment={}).spec


@pytest.fixture(autouse=True)
def _no_registered_teachers(monkeypatch):
    from dimo_cli.teachers import registry

    monkeypatch.setattr(registry, "EMBEDDED", dict(registry.EMBEDDED))


def test_every_teacher_has_a_preset_of_its_name():
    assert set(teacher_names()) <= set(preset_names())
    assert all(spec_of(name).teacher.name == name for name in teacher_names())


OF_METHODS = sorted(set(preset_names()) - set(teacher_names()))


@pytest.mark.parametrize("name", OF_METHODS)
def test_a_preset_of_a_method_is_called_after_teacher_and_method(name):
    assert name.startswith(f"{spec_of(name).teacher.name}-")


def test_students_of_few_steps_differ_from_the_preset_of_their_teacher_in_their_steps_alone():
    spec, plain = spec_of("digits-few"), spec_of("digits")
    assert spec.student.steps == (1, 2, 4)
    values = spec.model_dump()
    values["student"]["steps"] = plain.student.steps
    assert DistillSpec.model_validate(values) == plain


# Every method, and a network of classes and one of prompts; tiny ones of every family are rehearsed
# by `tests/engine/test_pretended_card.py`.
QUICK = {"digits", "digits-few", "shapes", "maskbit", "maskgen-l", "digits-dmmd", "digits-fpd",
         "digits-catdrift", "digits-redi", "digits-sdtt", "digits-di4c"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in preset_names()
    ],
)
def test_the_cost_of_every_preset_is_known_without_its_weights(name):
    spec = spec_of(name)
    teacher = load_skeleton(spec.teacher)
    assert estimate_memory(teacher, spec).total > 0
    assert flops_per_step(teacher, spec) > 0


# Table 5 of Soft-Di[M]O: batch, steps, guidance, r_init, divergence, temperature, schedule, rate.
TABLE_5 = {
    "maskgit": (256, 30_000, 2.0, 0.6, {"kind": "jeffreys", "beta": -0.2}, 12, "arccos", 1e-5),
    "maskbit": (256, 50_000, 1.5, 0.6, {"kind": "fkl"}, 0.1, "arccos", 1e-6),
    "meissonic": (16, 10_000, 4.0, 0.6, {"kind": "fkl"}, 0.5, "cosine", 1e-6),
    "maskgen-l": (64, 50_000, 4.0, 0.9, {"kind": "fkl"}, 1, "arccos", 1e-6),
}


@pytest.mark.parametrize("name", TABLE_5)
def test_the_papers_presets_hold_table_5_to_the_letter(name):
    spec = spec_of(name)
    assert TABLE_5[name] == (
        spec.train.batch_size * spec.train.accumulate,
        spec.train.steps,
        spec.teacher.guidance.scale,
        spec.init.mask_ratio.value,
        spec.loss.divergence.model_dump(),
        spec.student.temperature,
        spec.masking.student,
        spec.student.optimizer.learning_rate,
    )
    assert spec.masking.auxiliary == spec.masking.student
    assert spec.student.freeze_embeddings
    assert spec.student.ema.decay == 0.9999
    for optimizer in (spec.student.optimizer, spec.auxiliary.optimizer):
        assert (optimizer.kind, optimizer.beta1, optimizer.beta2) == ("adam", 0.9, 0.999)
        assert (optimizer.weight_decay, optimizer.warmup_steps, optimizer.clip_norm) == (0, 100, 1)
    assert spec.loss.weight.value == 1


def test_presets_show_prints_memory_and_arithmetic(dimo):
    shown = dimo("presets", "show", "maskbit")
    assert "GiB of GPU memory at batch size 64" in shown.stdout
    assert "TFLOP per step" in shown.stdout
    document = json.loads(dimo("presets", "show", "maskbit", "--json").stdout)
    assert document["memory_bytes"] > 2**34
    assert document["flops_per_step"] > 1e14


def test_a_dry_run_that_does_not_fit_is_refused_with_what_to_change(dimo, monkeypatch):
    monkeypatch.setattr("dimo_cli.planning.plan.machine_memory", lambda: ("a small GPU", 5 * 2**30))
    result = dimo("distill", "--preset", "halton-tiny", "--dry-run", "--json")
    assert result.exit_code == 3
    assert "needs about" in result.stderr
    document = json.loads(result.stdout)
    assert document["fits"] is False
    settings = document["advice"].split("`")[1].split()
    again = dimo("distill", "--preset", "halton-tiny", "--dry-run", "--json", *settings)
    assert again.exit_code == 0
    train = json.loads(again.stdout)["spec"]["train"]
    assert train["batch_size"] * train["accumulate"] == 256
    assert train["micro_batch"] < train["batch_size"]


def test_advice_turns_to_checkpointing_and_then_to_another_machine(teacher):
    spec = small_spec(train={"steps": 1, "batch_size": 64})
    needed = estimate_memory(teacher, spec)
    fixed = needed.total - needed.activations
    assert advice_to_fit(teacher, spec, needed, needed.total) is None
    one = with_train(spec, {"micro_batch": 1})
    least = estimate_memory(teacher, one).total
    assert "micro_batch=1`" in advice_to_fit(teacher, spec, needed, least)
    recomputed = with_train(spec, {"micro_batch": 1, "gradient_checkpointing": True})
    tight = advice_to_fit(teacher, spec, needed, estimate_memory(teacher, recomputed).total)
    assert "gradient_checkpointing=true" in tight
    assert "larger GPU" in advice_to_fit(teacher, spec, needed, fixed // 2)


def test_arithmetic_grows_as_the_step_does(teacher):
    def cost(**groups):
        return flops_per_step(load_skeleton("digits"), small_spec(**groups))

    plain = cost()
    assert cost(train={"batch_size": 16}) == pytest.approx(2 * plain)
    assert cost(train={"batch_size": 8, "accumulate": 3}) == pytest.approx(3 * plain)
    # A plain step is student and auxiliary forward and back (3 + 3), teacher and auxiliary (2).
    guided = cost(teacher={"guidance": 2.0})
    assert guided / plain == pytest.approx(9 / 8, rel=0.02)
    checkpointed = cost(train={"batch_size": 8, "gradient_checkpointing": True})
    assert checkpointed / plain == pytest.approx(10 / 8, rel=0.02)


def test_the_arithmetic_of_pairs_is_that_of_their_steps(teacher):
    def cost(**settings):
        redi = Objective(kind="redi", pairs=100, **settings)
        spec = small_spec().model_copy(update={"objectives": (redi,)})
        return flops_of_drawings(teacher, spec)

    one_step = 100 * sum(forward_flops(copy.deepcopy(teacher.backbone).to("meta"), teacher))
    guided = 2 if teacher.sampler.guidance != 1 else 1
    assert flops_of_drawings(teacher, small_spec()) == 0
    assert cost(rounds=1, sampler_steps=8) == guided * 8 * one_step
    assert cost(rounds=3, sampler_steps=8) == (guided + 2) * 8 * one_step


def test_the_mean_mask_ratio_of_arccos_is_two_over_pi():
    assert mean_ratio("arccos") == pytest.approx(2 / 3.141592653589793, rel=1e-4)


def test_a_registered_teacher_cannot_take_a_known_name(teacher):
    from dimo_cli.errors import SpecError

    register_teacher("mine", lambda: teacher)
    assert load_skeleton("mine") is teacher
    with pytest.raises(SpecError, match="a teacher `mine` already"):
        register_teacher("mine", lambda: teacher)
    with pytest.raises(SpecError, match="a teacher `maskbit` already"):
        register_teacher("maskbit", lambda: teacher)


INDEX = "model.safetensors.index.json"


@pytest.mark.usefixtures("unrehearsed")
@pytest.mark.parametrize(
    ("name", "license"),
    [
        ("maskbit", "Apache-2.0"),
        ("halton-tiny", "MIT"),
        ("showo", "MIT"),
        ("muddit", "Apache-2.0"),
    ],
)
def test_doctor_lists_files_bytes_license_and_place(dimo, fake_hub, golden, name, license):
    architecture = PUBLISH[name](fake_hub, golden)
    flags = ("--preset", name, "--set", f"teacher.architecture={json.dumps(architecture)}")
    result = dimo("doctor", *flags, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["preset"]
    sizes = {repo + "/" + path: len(data) for (repo, path), data in fake_hub.files.items()}
    assert {f["file"]: f["bytes"] for f in facts["files"]} == sizes
    assert facts["download_bytes"] == sum(sizes.values())
    assert facts["license"] == license
    assert facts["download_folder"].endswith("hub")
    assert fake_hub.downloads() == []
    asked = ("--prompt", "a red fox") if name in TEXT else ("--class", "1")
    drawn = dimo("sample", *flags, "--teacher", "--steps", "2", *asked, "-n", "1")
    assert drawn.exit_code == 0, drawn.stderr
    facts = json.loads(dimo("doctor", *flags, "--json").stdout)["preset"]
    assert {f["state"] for f in facts["files"]} == {"here"}
    assert facts["download_bytes"] == 0


def test_doctor_counts_the_files_of_an_index_once_it_is_here(dimo, fake_hub, golden):
    architecture = PUBLISH["lumina-dimoo"](fake_hub, golden)
    described = f"teacher.architecture={json.dumps(architecture)}"
    flags = ("--preset", "lumina-dimoo", "--set", described)
    facts = json.loads(dimo("doctor", *flags, "--json").stdout)["preset"]
    index = facts["files"][0]
    assert (index["state"], index["exact"]) == ("to download", False)
    assert index["bytes"] > len(fake_hub.files["Alpha-VLLM/Lumina-DiMOO", INDEX])
    assert facts["license"] == "other"
    assert fake_hub.downloads() == []
    drawn = ("--teacher", "--steps", "2", "--prompt", "a red fox", "-n", "1")
    result = dimo("sample", *flags, *drawn)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(dimo("doctor", *flags, "--json").stdout)["preset"]
    sizes = {repo + "/" + path: len(data) for (repo, path), data in fake_hub.files.items()}
    assert {f["file"]: f["bytes"] for f in facts["files"]} == sizes
    assert {f["state"] for f in facts["files"]} == {"here"}


def test_doctor_says_what_cannot_be_had_and_exits_3(
    dimo, fake_hub, golden, monkeypatch, room_enough
):
    result = dimo("doctor", "--preset", "maskbit", "--json")
    assert result.exit_code == 3
    facts = json.loads(result.stdout)["preset"]
    assert "no repository" in facts["files"][0]["state"]
    assert "maskbit_generator_14bit.bin" in facts["problems"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    facts = json.loads(dimo("doctor", "--preset", "maskbit", "--json").stdout)["preset"]
    assert {f["state"] for f in facts["files"]} == {"the Hub cannot be reached"}
    generator = facts["files"][0]
    assert not generator["exact"]
    assert generator["bytes"] == 1_219_716_124


@pytest.mark.parametrize(
    ("name", "size"), [("halton-tiny", 276_377_100), ("halton-large-384", 1_919_938_564)]
)
def test_a_file_with_the_moments_of_adam_is_counted_as_three_times_its_network(name, size):
    """Nobody published exact sizes, and a Hub that is not asked tells none."""
    transformer, tokenizer = needs_of(TeacherSource(name=name), load_skeleton(name), ask_hub=False)
    assert (transformer.size, transformer.is_exact) == (size, False)
    assert tokenizer.size == pytest.approx(287e6, rel=0.01)


# Presets of teachers that no paper distills: whose recipe they borrow, and where they depart.
BORROWED = {
    "halton-tiny": ("maskgit", {"teacher.guidance.scale"}),
    "halton-small": ("maskgit", set()),
    "halton-base": ("maskgit", {"teacher.guidance.scale"}),
    "halton-small-384": ("maskgit", {"train.batch_size", "train.accumulate"}),
    "halton-base-384": (
        "maskgit",
        {"teacher.guidance.scale", "train.batch_size", "train.accumulate"},
    ),
    "halton-large-384": (
        "maskgit",
        {"teacher.guidance.scale", "train.batch_size", "train.accumulate"},
    ),
    "muddit": ("meissonic", {"train.batch_size", "train.accumulate"}),
    "muddit-1024": ("meissonic", set()),
    "lumina-dimoo": (
        "meissonic",
        {
            "init.embed_noise.sigma",
            "train.batch_size",
            "train.accumulate",
            "train.gradient_checkpointing",
        },
    ),
    "showo": ("meissonic", {"teacher.guidance.scale"}),
    "showo-512": ("meissonic", {"teacher.guidance.scale"}),
}


@pytest.mark.parametrize("name", BORROWED)
def test_a_borrowed_recipe_says_that_it_was_not_run_and_where_each_line_is_from(name):
    lender, departures = BORROWED[name]
    spec, lent = spec_of(name), spec_of(lender)
    found = {one.path for one in differences(lent, spec)}
    assert found == {"teacher.name", *departures}
    samples, lent_samples = (one.train.batch_size * one.train.accumulate for one in (spec, lent))
    assert samples == lent_samples
    assert "Not run" in preset_summary(name)
    assert f"`{lender}`" in preset_summary(name)
    lines = preset_path(name).read_text().splitlines()
    of_the_run = {"log_every", "preview_every", "name", "accumulate"}  # told with the line before
    for before, line in itertools.pairwise(lines):
        key = line.strip().partition(":")[0]
        ends_here = not line.startswith("#") and line.strip().partition(":")[2]
        if ends_here and key not in of_the_run and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), f"{name}: where is `{line.strip()}` from?"


def test_every_recipe_of_a_published_teacher_says_that_nobody_has_run_it():
    names = [*preset_names(), *refine_preset_names()]
    published = [n for n in names if n.split("-")[0] not in ("digits", "shapes", "emoji")]
    assert len(published) > 30
    assert all("Not run" in preset_summary(name) for name in published)


@pytest.mark.usefixtures("unrehearsed")
def test_a_preset_that_was_not_run_is_shown_as_such(dimo):
    assert "Not run" in dimo("presets", "show", "halton-tiny").stdout.splitlines()[0]


def test_a_known_preset_without_its_own_settings_refuses_them(dimo):
    result = dimo("distill", "--preset", "digits", "--set", "teacher.revision=v1")
    assert result.exit_code == 2
    assert "brings its weights along" in result.stderr


def test_teacher_sources_are_strict():
    with pytest.raises(ValueError, match="revison"):
        TeacherSource.model_validate({"name": "maskbit", "revison": "main"})
