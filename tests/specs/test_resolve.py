"""Specs: later sources win, every value knows its origin, every preset resolves."""

import json
import os

import pytest
import yaml

from dimo_cli.errors import SpecError
from dimo_cli.specs import divergences
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths, leaves
from dimo_cli.specs.init import FixedNoise, FixedRatio, RandomRatio, WarmupNoise
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import changed_values, commented_yaml, to_yaml
from dimo_cli.specs.resolve import (
    Layers,
    parse_value,
    preset_names,
    preset_summary,
    resolve_spec,
)
from dimo_cli.specs.teacher import TeacherGuidance
from tests.torture.guards import in_time


def resolve(**sources):
    return resolve_spec(DistillSpec, **{"environment": {}, **sources})


def test_flags_beat_environment_beats_file_beats_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  steps: 11\n  batch_size: 12\n  seed: 13\n")
    plan = resolve(
        preset="digits",
        file=file,
        environment={"DIMO_TRAIN__BATCH_SIZE": "22", "DIMO_TRAIN__SEED": "23"},
        sets=["train.seed=33"],
    )
    assert (plan.spec.train.steps, plan.spec.train.batch_size, plan.spec.train.seed) == (11, 22, 33)
    assert plan.origins["train.steps"] == f"{file}, line 2"
    assert plan.origins["train.batch_size"] == "environment DIMO_TRAIN__BATCH_SIZE"
    assert plan.origins["train.seed"] == "flag --set train.seed"
    assert plan.origins["student.ema.decay"].startswith("preset digits, line ")


def test_a_file_may_name_the_preset_it_is_laid_over(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: digits\ntrain: {steps: 7}\n")
    plan = resolve(file=file)
    assert plan.spec.train.steps == 7
    assert plan.spec.student == resolve(preset="digits").spec.student


def test_program_variables_are_no_settings():
    assert resolve(environment={"DIMO_DEBUG": "1", "HOME": "/"}).spec == DistillSpec()


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("init.mask_ratio=0.4", "mask_ratio", FixedRatio(value=0.4)),
        ("init.mask_ratio.value=0.4", "mask_ratio", FixedRatio(value=0.4)),
        ("init.embed_noise=0.2", "embed_noise", FixedNoise(sigma=0.2)),
        ("init.embed_noise={kind: warmup, steps: 5}", "embed_noise", WarmupNoise(steps=5)),
        ("init.mask_ratio={kind: random}", "mask_ratio", RandomRatio()),
    ],
)
def test_short_forms_mean_the_long_ones(assignment, path, value):
    for preset in (None, "digits"):
        assert getattr(resolve(preset=preset, sets=[assignment]).spec.init, path) == value


@pytest.mark.parametrize(
    ("sets", "divergence"),
    [
        (["loss.divergence=fkl"], divergences.ForwardKL()),
        (["loss.divergence=0.3"], divergences.Jeffreys(beta=0.3)),
        (["loss.divergence.beta=-0.2"], divergences.Jeffreys(beta=-0.2)),
        (["loss.divergence.kind=rkl"], divergences.ReverseKL()),
        (["loss.divergence=rkl", "loss.divergence={kind: alpha, alpha: 2}"],
         divergences.AlphaDivergence(alpha=2)),
        (["loss.divergence.kind=alpha", "loss.divergence.alpha=0.25"],
         divergences.AlphaDivergence(alpha=0.25)),
        (["loss.divergence=jeffreys", "loss.divergence.beta=1"], divergences.Jeffreys(beta=1)),
    ],
)  # fmt: skip
def test_changing_the_kind_drops_the_settings_of_the_old_one(sets, divergence):
    assert resolve(preset="digits", sets=sets).spec.loss.divergence == divergence


def test_naming_the_kind_that_stands_there_drops_nothing():
    sets = ["init.mask_ratio.value=0.5", "init.mask_ratio.kind=fixed"]
    assert resolve(sets=sets).spec.init.mask_ratio == FixedRatio(value=0.5)


def test_changing_a_kind_without_variants_keeps_the_other_settings():
    sets = [
        "student.optimizer.kind=adamw",
        "teacher.guidance.scale=3",
        "teacher.guidance.kind=linear",
    ]
    spec = resolve(preset="digits", sets=sets).spec
    assert spec.student.optimizer.learning_rate == 4e-4
    assert spec.teacher.guidance == TeacherGuidance(kind="linear", scale=3)


def test_numbers_in_any_notation_and_null_are_understood():
    sets = [
        "student.optimizer.learning_rate=1e-3",
        "student.optimizer.clip_norm=null",
        "monitor.teacher_steps=[1, 4]",
        "train.compile=true",
    ]
    spec = resolve(sets=sets).spec
    assert spec.student.optimizer.learning_rate == 1e-3
    assert spec.student.optimizer.clip_norm is None
    assert spec.monitor.teacher_steps == (1, 4)
    assert spec.train.compile is True


def test_a_spec_cannot_be_changed_once_made():
    with pytest.raises(ValueError, match="frozen"):
        DistillSpec().train.steps = 5


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_and_says_what_it_is(name):
    assert resolve(preset=name).spec
    assert len(preset_summary(name)) > 20


@pytest.mark.parametrize("name", preset_names())
def test_what_presets_show_prints_is_the_same_spec_again(name, tmp_path):
    spec = resolve(preset=name).spec
    file = tmp_path / "shown.yaml"
    file.write_text(commented_yaml(spec))
    assert resolve(file=file).spec == spec


def test_the_saved_spec_of_a_run_is_the_same_spec_again(tmp_path):
    spec = resolve(preset="digits", sets=["loss.weight=adaptive", "init.control_token=null"]).spec
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(spec))
    assert resolve(file=file).spec == spec


def test_every_field_is_documented_in_a_full_comment():
    text = commented_yaml(DistillSpec())
    for leaf in leaves(DistillSpec()):
        assert len(leaf.description) > 8, leaf.path
        assert leaf.description in text


def test_only_values_that_differ_from_the_default_are_listed_with_their_origin():
    plan = resolve(sets=["train.steps=1000", "train.seed=4", "init.mask_ratio=0.3"])
    assert changed_values(plan.spec, plan.origins) == [
        ("init.mask_ratio.value", "0.3", "flag --set init.mask_ratio"),
        ("train.seed", "4", "flag --set train.seed"),
    ]


def test_known_paths_reach_into_every_kind():
    paths = known_paths(DistillSpec)
    assert {"loss.divergence.beta", "loss.divergence.alpha", "init.mask_ratio.low"} <= set(paths)


def test_the_schema_accepts_the_presets(dimo):
    schema = json.loads(dimo("spec", "schema").stdout)
    assert schema["properties"]["train"]
    assert "preset" in schema["properties"]
    assert schema["$defs"]["TrainSpec"]["properties"]["steps"]["description"]


def test_an_unreadable_value_is_refused():
    with pytest.raises(SpecError, match="cannot be read"):
        resolve(sets=["train.steps={"])


def test_presets_are_plain_yaml():
    from dimo_cli.specs.resolve import preset_path

    for name in preset_names():
        assert isinstance(yaml.safe_load(preset_path(name).read_text()), dict)


def test_a_name_with_a_dot_is_one_name_and_survives_a_round_trip(tmp_path):
    base = ("student x", {"reward": {"terms": {"hps_v2.1": 5.0, "clip": 0.2}}})
    plan = resolve_spec(RefineSpec, base=base, sets=["reward.terms.clip=0.3"], environment={})
    assert plan.spec.reward.terms == {"hps_v2.1": 5.0, "clip": 0.3}
    assert plan.origins["reward.terms.hps_v2.1"] == "student x"
    assert plan.origins["reward.terms.clip"] == "flag --set reward.terms.clip"
    (tmp_path / "run.yaml").write_text(to_yaml(plan.spec))
    again = resolve_spec(RefineSpec, file=tmp_path / "run.yaml", environment={}).spec
    assert again == plan.spec


def layered(texts):
    """The layers of a spec after many values of one origin each."""
    layers = Layers(DistillSpec)
    for text in texts:
        path, _, value = text.partition("=")
        layers.set(path, parse_value(value, "-"), text)
    return layers


def test_a_value_over_a_group_and_a_group_over_a_value_keep_the_origins_right():
    texts = ["a.b.c=1", "a.b.d=2", "a.b=3", "a.b.e=4", "a.bc=5", "a.b={f: 6, g: 7}", "a.b.f=8"]
    assert layered(texts).origins == {
        "a.bc": "a.bc=5",
        "a.b.f": "a.b.f=8",
        "a.b.g": "a.b={f: 6, g: 7}",
    }


def test_a_spec_of_a_hundred_thousand_keys_is_refused_at_once(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("\n".join(f"k{n}: 1" for n in range(100_000)))
    with in_time(), pytest.raises(SpecError, match=r"large\.yaml.*more than 20,000 keys"):
        resolve_spec(DistillSpec, file=path, environment={})


@pytest.mark.parametrize("key", ["k{}: 1", "k{0}.a: 1\nk{0}: 1", "train.k{}: 1"])
def test_a_spec_of_thousands_of_unknown_keys_is_refused_in_few_sentences(tmp_path, key):
    path = tmp_path / "large.yaml"
    path.write_text("\n".join(key.format(number) for number in range(4_000)))
    with in_time(), pytest.raises(SpecError, match=r"And 3,980 more\.") as error:
        resolve_spec(DistillSpec, file=path, environment={})
    assert len(error.value.message.splitlines()) == 21


def test_a_spec_that_is_no_file_or_larger_than_any_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(SpecError, match="is a pipe"):
        resolve_spec(DistillSpec, file=tmp_path / "pipe.yaml", environment={})
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(SpecError, match="at most 1 MiB"):
        resolve_spec(DistillSpec, file=tmp_path / "large.yaml", environment={})


@pytest.mark.parametrize("start", ["", "reward:\n  terms:\n    "])
def test_a_setting_in_groups_without_end_is_refused(tmp_path, start):
    (tmp_path / "deep.yaml").write_text(f"{start}? a{'.a' * 200_000}\n{' ' * 4 * bool(start)}: 1")
    with in_time(), pytest.raises(SpecError, match="deeper than any setting"):
        resolve_spec(RefineSpec, file=tmp_path / "deep.yaml", environment={})


def test_objectives_are_written_on_one_line_as_they_are_read():
    from dimo_cli.specs.render import scalar

    text = "[{kind: fpd, ratio: 0.5}]"
    spec = resolve_spec(DistillSpec, environment={}, sets=[f"objectives={text}"]).spec
    assert yaml.safe_load(scalar(spec.objectives)) == [{"kind": "fpd", "ratio": 0.5, "weight": 1.0}]
