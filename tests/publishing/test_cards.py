"""Model cards: everything that is known is on them, and nothing that is not."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from dimo_cli.cards.card import student_card
from dimo_cli.cards.citations import TEACHERS
from dimo_cli.cards.facts import CardFacts, Measured
from dimo_cli.cards.licenses import KNOWN, license_of, license_to_publish
from dimo_cli.console.live import PlainView
from dimo_cli.errors import SpecError
from dimo_cli.publishing.package import facts_to_publish, public_settings
from dimo_cli.run_folder.effort import Effort, effort_of
from dimo_cli.runs.distill import distill
from dimo_cli.specs.manifest import Choice
from dimo_cli.specs.push import Footprint, PushSpec
from dimo_cli.students.folder import BUILTIN, describe_student, load_student, teacher_repository
from dimo_cli.teachers.families import FAMILIES
from dimo_cli.teachers.registry import blueprint_of, load_skeleton
from tests.conftest import small_spec


@pytest.fixture(scope="module")
def digits():
    return describe_student(load_student(BUILTIN["digits"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    distill(small_spec(), folder, PlainView(lambda line: None))
    return folder


def of_teacher(facts, name, **training) -> CardFacts:
    """The card's facts of a student of a published teacher."""
    teacher = load_skeleton(name)
    manifest = facts.manifest
    about = manifest.teacher.model_copy(
        update={"name": name, "family": teacher.family, "license": teacher.license}
    )
    made = manifest.training.model_copy(update=training)
    return replace(
        facts,
        manifest=manifest.model_copy(update={"teacher": about, "training": made}),
        takes_prompts=teacher.takes_prompts,
        license=license_of(teacher.license),
        base_model=teacher_repository(about),
        repository="you/one-step",
        example="a fox" if teacher.takes_prompts else 207,
    )


def card_of(facts):
    """The card, parsed as the Hub parses it."""
    return ModelCard(student_card(facts))


@pytest.mark.parametrize(
    ("name", "task", "license", "call"),
    [
        ("maskbit", "unconditional-image-generation", "apache-2.0", "(class_labels=[207])"),
        ("amused-512", "text-to-image", "openrail++", '("a fox")'),
        ("maskgit", "unconditional-image-generation", "mit", "(class_labels=[207])"),
        ("muddit", "text-to-image", "apache-2.0", '("a fox")'),
        ("halton-base", "unconditional-image-generation", "mit", "(class_labels=[207])"),
        ("showo", "text-to-image", "mit", '("a fox")'),
    ],
)
def test_the_front_matter_says_what_the_hub_sorts_by(digits, name, task, license, call):
    facts = of_teacher(digits, name)
    card = card_of(facts)
    assert card.data.pipeline_tag == task
    assert card.data.license == license
    assert card.data.library_name == "dimo"
    assert card.data.base_model_relation == "finetune"
    assert {"dimo", "one-step", "masked-diffusion"} <= set(card.data.tags)
    assert f'OneStepPipeline.from_pretrained("you/one-step"){call}.images[0]' in card.text
    assert "dimo sample --student you/one-step" in card.text


def test_every_published_teacher_is_the_base_model_of_its_students(digits):
    for name in FAMILIES:
        repository = card_of(of_teacher(digits, name)).data.base_model
        assert repository == blueprint_of_name(name).backbone.files[0].repo


def blueprint_of_name(name):
    from dimo_cli.specs.teacher import TeacherSource

    return blueprint_of(TeacherSource(name=name))


def test_a_teacher_that_is_nowhere_published_is_no_base_model(digits):
    data = card_of(digits).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data


def test_a_teacher_of_ones_own_architecture_is_no_base_model(digits):
    facts = of_teacher(digits, "maskbit").manifest.teacher
    assert teacher_repository(facts.model_copy(update={"architecture": {"depth": 12}})) is None


def test_every_family_is_cited_with_both_papers(digits):
    families = {load_skeleton(name).family for name in FAMILIES}
    assert families <= set(TEACHERS)
    names = ("maskgit", "meissonic", "titok-s128", "halton-tiny", "showo", "muddit", "lumina-dimoo")
    for name in names:
        facts = of_teacher(digits, name)
        text = card_of(facts).text
        assert "2503.15457" in text
        assert "2509.22925" in text
        for work in TEACHERS[facts.manifest.teacher.family]:
            assert work.title in text
            assert work.arxiv in text


def test_what_nobody_measured_is_not_on_the_card(digits):
    text = student_card(digits)
    for absent in ("model-index", "## Evaluation", "emissions", "| time |", "| hardware |"):
        assert absent not in text


def test_a_refined_student_tells_the_limits_of_its_refinement(digits):
    plain = card_of(of_teacher(digits, "maskgen-l")).text
    reward = card_of(
        of_teacher(digits, "maskgen-l", method="Soft-Di[M]O (Di[M]O, reward clip 0.2)")
    ).text
    gan = card_of(of_teacher(digits, "maskbit", method="Soft-Di[M]O (Di[M]O, GAN weight 100)")).text
    assert "reward" not in plain
    assert "less varied" in reward
    assert "against real images" in gan
    assert "no images were used" in plain


def test_two_numbers_of_one_metric_are_told_apart_by_their_protocol(digits):
    numbers = tuple(
        Measured("fid5k", value, {"images": "5000", "reference": name})
        for value, name in ((1.0, "one"), (2.0, "two"))
    )
    card = card_of(replace(digits, measured=numbers, repository="you/x"))
    assert {(r.dataset_name, r.metric_value) for r in card.data.eval_results} == {
        ("one", 1.0),
        ("two", 2.0),
    }
    assert card.data.model_name == "x"


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("fid50k", "fid"), ("kid200", "kid"), ("precision_k3", "precision"), ("hps_v2.1", "hps_v2.1")],
)
def test_the_kind_of_a_metric_is_its_name_without_counts(metric, kind):
    assert Measured(metric, 1.0, {}).kind == kind


# Emissions


def test_emissions_are_hours_times_watts_times_grid_intensity(digits):
    facts = replace(
        digits,
        effort=Effort(10.0, "2 x GPU"),
        footprint=Footprint(watts=700, grid_intensity=50),
    )
    card = card_of(facts)
    assert card.data.co2_eq_emissions["emissions"] == 350
    assert card.data.co2_eq_emissions["hardware_used"] == "2 x GPU"
    assert "350 g CO2eq" in card.text
    assert "700 W (assumed" in card.text
    assert "50 g CO2eq per kWh (assumed)" in card.text


@pytest.mark.parametrize(
    ("effort", "footprint"),
    [
        (None, Footprint(watts=700, grid_intensity=50)),
        (Effort(10.0, "2 x GPU"), Footprint()),
    ],
)
def test_without_hours_or_assumptions_nothing_is_estimated(digits, effort, footprint):
    assert "CO2" not in student_card(replace(digits, effort=effort, footprint=footprint))


# Hours


def test_a_run_records_its_hours_and_its_hardware(run):
    effort = effort_of(run)
    assert 0 < effort.hours < 1
    assert effort.hardware
    assert effort.is_complete
    (line,) = (run / "effort.jsonl").read_text().splitlines()
    assert json.loads(line)["last_step"] == 6


def test_a_continued_run_adds_up(tmp_path):
    view = PlainView(lambda line: None)
    distill(small_spec(train={"steps": 3}), tmp_path / "x", view)
    first = effort_of(tmp_path / "x").hours
    distill(small_spec(), tmp_path / "x", view, resume=True)
    assert effort_of(tmp_path / "x").hours > first
    assert effort_of(tmp_path / "x").is_complete


def test_a_run_with_a_gap_took_at_least_what_was_recorded(digits, tmp_path):
    lines = [
        {"first_step": 0, "last_step": 100, "seconds": 3600, "hardware": "a"},
        {"first_step": 150, "last_step": 200, "seconds": 3600, "hardware": "b"},
    ]
    (tmp_path / "effort.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    effort = effort_of(tmp_path)
    assert effort == Effort(2.0, "a, b", is_complete=False)
    assert "at least 2.0 hours" in student_card(replace(digits, effort=effort))


def test_damaged_records_of_hours_are_refused(tmp_path):
    (tmp_path / "effort.jsonl").write_text('{"seconds": 3')
    with pytest.raises(SpecError, match="damaged"):
        effort_of(tmp_path)


def test_what_the_user_says_comes_before_what_was_recorded(run):
    spec = PushSpec(
        target="x",
        repository="a/b",
        footprint=Footprint(hours=7, hardware="8 x GPU", watts=1000, grid_intensity=100),
    )
    facts = facts_to_publish(spec, load_student(run), run)
    assert facts.effort == Effort(7, "8 x GPU")
    assert facts.emissions == 700


# Settings


def test_the_settings_of_a_run_are_on_its_card(run):
    facts = facts_to_publish(PushSpec(target="x", repository="a/b"), load_student(run), run)
    text = student_card(facts)
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert shown["train"]["steps"] == 6
    assert "seed: 0" in text


def test_folders_of_the_machine_stay_at_home(tmp_path):
    settings = {
        "start": "runs/first",
        "teacher": {"local_dir": "/home/somebody/secret/weights"},
        "gan": {"data": "~/private/tokens"},
        "condition": {"prompts": "C:\\Users\\somebody\\prompts.txt"},
        "list": ["../hidden/x"],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    shown = yaml.safe_load(public_settings(tmp_path / "run.yaml"))
    assert shown == {
        "start": "runs/first",
        "teacher": {"local_dir": "weights"},
        "gan": {"data": "tokens"},
        "condition": {"prompts": "prompts.txt"},
        "list": ["x"],
    }


def test_a_damaged_spec_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "run.yaml").write_text("a: [")
    with pytest.raises(SpecError, match="damaged"):
        public_settings(copy / "run.yaml")


# Licenses


@pytest.mark.parametrize("name", [n for n in KNOWN if KNOWN[n].may_share_changes])
def test_a_student_is_published_under_its_teachers_license(name):
    assert license_to_publish("teacher", name.upper()).id == name


@pytest.mark.parametrize("name", ["CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"])
def test_a_license_against_changed_versions_forbids_a_push(name):
    with pytest.raises(SpecError, match="forbids"):
        license_to_publish("teacher", name)
    with pytest.raises(SpecError, match="forbids"):
        license_to_publish("teacher", name, "mine", "https://x.org")


def test_a_non_commercial_license_says_so_on_the_card(digits):
    card = card_of(replace(digits, license=license_to_publish("teacher", "CC-BY-NC-4.0")))
    assert card.data.license == "cc-by-nc-4.0"
    assert "No commercial use" in card.text


def test_an_unknown_license_needs_the_users_word(digits):
    declared = load_skeleton("monetico").license
    with pytest.raises(SpecError, match="cannot tell") as caught:
        license_to_publish("monetico", declared)
    assert "--license-name" in caught.value.hint
    known = license_to_publish("monetico", declared, "Its terms", "https://x.org/terms")
    data = card_of(replace(digits, license=known)).data
    assert (data.license, data.license_name) == ("other", "Its terms")
    assert data.license_link == "https://x.org/terms"


def test_a_known_license_cannot_be_renamed():
    with pytest.raises(SpecError, match="Apache"):
        license_to_publish("maskbit", "Apache-2.0", "MIT", "https://x.org")


def test_every_teacher_has_a_license_that_is_known_or_asked_for():
    unknown = {name for name in FAMILIES if load_skeleton(name).license.lower() not in KNOWN}
    assert unknown == {"monetico", "lumina-dimoo"}


# The card in a student folder


def test_a_student_folder_has_a_full_card_of_its_own(run):
    card = ModelCard((run / "student" / "README.md").read_text())
    assert card.data.license == "cc-by-4.0"
    assert "dimo sample --student . --class 7" in card.text
    assert "## Limits" in card.text


def test_prompts_of_the_user_are_not_on_the_card():
    student = load_student(BUILTIN["shapes"])
    student.teacher.conditioner.dataset = ["a secret red circle"]
    text = student_card(describe_student(student))
    assert "secret" not in text
    assert load_skeleton("shapes").conditioner.dataset[0] in text


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"rule": "last", "step": 1100}, "the average at the run's last step, 1,100"),
        (
            {"rule": "best", "step": 750, "metric": "fid", "value": 1.234, "images": 1000},
            "the average at step 750, the best checkpoint of the run by FID: 1.234 of 1,000 images",
        ),
        ({"rule": "step", "step": 500}, "the average at step 500, which was named by hand"),
        (
            {"rule": "average", "step": 1100, "length": 0.15, "snapshots": 11},
            "the average of length 0.15 (sigma_rel) up to step 1,100, put together from 11 "
            "snapshots after the run",
        ),
    ],
)
def test_a_card_says_by_which_rule_its_weights_were_chosen(digits, chosen, said):
    manifest = digits.manifest.model_copy(update={"chosen": Choice(**chosen)})
    card = student_card(replace(digits, manifest=manifest))
    plain = card.replace("\\", "")
    assert f"| weights | {said} |" in plain


def test_a_card_of_unrecorded_weights_says_nothing_of_the_rule(digits):
    assert "| weights |" not in student_card(digits)
