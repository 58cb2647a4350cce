"""A run whose student draws in one step or two, and all that such a student can be used for."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from dimo_cli.console.live import PlainView
from dimo_cli.errors import SpecError
from dimo_cli.main import app
from dimo_cli.reporting.collect import collect
from dimo_cli.reporting.run_view import closing_table, lead_of
from dimo_cli.runs.distill import distill
from dimo_cli.runs.refine import with_its_steps
from dimo_cli.runs.tables import comparison_sentence, comparison_table
from dimo_cli.specs.manifest import StudentManifest, oldest_format
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.folder import BUILTIN, load_student, read_manifest
from tests.conftest import small_spec

MONITOR = {"table_samples": 100, "teacher_steps": [1, 4], "preview_images": 2}


def few_steps(folder, steps=(1, 2), **train):
    train = {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1, **train}
    spec = small_spec(student={"steps": list(steps)}, train=train, monitor=MONITOR)
    return distill(spec, folder, PlainView(lambda line: None))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield few_steps(tmp_path_factory.mktemp("runs") / "few")


@pytest.fixture
def student(run):
    return load_student(run.folder)


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_student_says_its_steps_and_old_students_take_one(student):
    manifest = student.manifest
    assert (manifest.format, manifest.step_counts, student.steps) == (3, (1, 2), 2)
    old = read_manifest(BUILTIN["digits"] / "dimo.json")
    assert (old.format, old.steps, old.step_counts) == (1, None, (1,))
    assert "steps" not in json.loads(old.model_dump_json())
    assert StudentManifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_it_draws_in_one_step_what_it_would_without_the_other(student):
    alone = replace(student, manifest=student.manifest.model_copy(update={"steps": None}))
    cond = student.teacher.conditioner.labels(torch.arange(4))

    def drawn(of, steps=None):
        return of.tokens(cond, torch.Generator().manual_seed(3), steps=steps)

    assert torch.equal(drawn(alone), drawn(student, 1))
    assert torch.equal(drawn(student), drawn(student, 2))
    assert not torch.equal(drawn(student), drawn(student, 1))
    assert drawn(student).max() < student.teacher.space.codes


def test_samples_are_of_the_steps_that_are_asked_for(run, tmp_path):
    words = ("sample", "--student", run.folder, "-n", 2, "--grid", tmp_path / "g.png", "--json")
    for asked, steps in (((), 2), (("--steps", 1), 1), (("--steps", 2), 2)):
        done = invoke(*words, *asked)
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["sampler"]["steps"] == steps


@pytest.mark.parametrize("command", [("sample", "--student"), ("eval", "fid")])
def test_a_number_of_steps_that_it_was_not_trained_for_is_refused(run, command, monkeypatch):
    monkeypatch.chdir(run.folder)
    done = invoke(*command, run.folder, "-n", 2, "--steps", 3)
    assert done.exit_code == 2
    assert "trained to draw in 1 or 2 steps, not in 3" in " ".join(done.stderr.split())
    assert "--steps 2" in done.stderr
    assert "--teacher --steps 3" in " ".join(done.stderr.split())


def test_eval_measures_it_at_a_number_of_steps(run):
    done = invoke("eval", "fid", run.folder, "-n", 20, "--steps", 1, "--no-cache", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["subject"]["steps"] == 1


def test_the_closing_table_has_a_row_for_each_number_of_steps(run):
    rows = json.loads((run.folder / "summary.json").read_text())["table"]
    assert [row["sampler"]["steps"] for row in rows] == [1, 4, 1, 2]
    shown = closing_table(rows)
    names = [row[0].removesuffix(" (best)") for row in shown["rows"]]
    assert names == ["teacher, 1 step", "teacher, 4 steps", "student, 1 step", "student, 2 steps"]
    assert "The student in 2 steps has" in shown["sentence"]
    assert comparison_table(run.rows).row_count == 4
    assert comparison_sentence(run.rows).plain.startswith("Student in 2 steps over teacher's best")
    pictures = {path.stem for path in (run.folder / "comparison").iterdir()}
    assert pictures == {"teacher-1", "teacher-4", "student-1", "student-2"}


def test_card_and_report_say_in_how_many_steps_it_draws(run):
    card = (run.folder / "student" / "README.md").read_text()
    assert "- few-step" in card
    assert "- one-step" not in card
    assert "draws in 1 or 2 steps, a network pass each," in card
    assert "| steps of an image | 1, 2; 2 unless `--steps` says otherwise |" in card
    record = collect(run.folder)
    assert "to a student of 1 or 2 steps" in lead_of(record)
    titles = [picture.title for picture in record.comparison]
    assert titles[-2:] == ["student, 1 step", "student, 2 steps"]


def test_a_comparison_takes_its_steps_as_a_side(run, tmp_path):
    sides = (f"{run.folder}@steps:1", run.folder, f"{run.folder}@teacher:4")
    done = invoke("compare", *sides, "--class", 3, "--grid", tmp_path / "c.png", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["sides"]
    assert [row["dimo.sampler"]["steps"] for row in rows] == [1, 2, 4]


def test_a_pipeline_takes_its_steps_by_either_name(run):
    from dimo_cli.pipeline import OneStepPipeline

    pipeline = OneStepPipeline.from_pretrained(run.folder)

    def drawn(**steps):
        generator = torch.Generator().manual_seed(3)
        return pipeline(class_labels=3, generator=generator, output_type="latent", **steps).images

    assert torch.equal(drawn(), drawn(steps=2))
    assert torch.equal(drawn(num_inference_steps=1), drawn(steps=1))
    assert not torch.equal(drawn(steps=1), drawn(steps=2))
    with pytest.raises(SpecError, match="in 1 or 2 steps, not in 4"):
        drawn(num_inference_steps=4)
    with pytest.raises(SpecError, match="`num_inference_steps` is 2"):
        drawn(steps=1, num_inference_steps=2)


@pytest.fixture
def only_two(student):
    return replace(student, manifest=student.manifest.model_copy(update={"steps": (2,)}))


def test_what_knows_one_pass_alone_is_refused_where_there_is_none(only_two):
    from dimo_cli.evaluation.softness import measure_softness
    from dimo_cli.exporting.write import check_exportable
    from dimo_cli.sampling.tteo import settled

    with pytest.raises(SpecError, match="to draw in 2 steps, and an exported program is a single"):
        check_exportable(only_two)
    with pytest.raises(SpecError, match="its soft images are those of a single pass"):
        measure_softness(only_two, [0], [1.0], 0)
    prompted = replace(only_two, teacher=replace(only_two.teacher, takes_prompts=True))
    with pytest.raises(SpecError, match="test-time optimization is of the input of a single pass"):
        settled(prompted, TteoSpec())


def test_an_exported_file_says_that_it_draws_in_one_step(student):
    from dimo_cli.exporting.facts import sampling_facts
    from dimo_cli.exporting.write import check_exportable
    from dimo_cli.specs.export import ExportSpec

    check_exportable(student)
    assert sampling_facts(student, ExportSpec())["steps"] == 1


def test_a_refinement_keeps_the_steps_of_its_student():
    spec = RefineSpec.model_validate({"start": "s", "gan": {"enabled": True}})
    assert with_its_steps(spec, (1,)) is spec
    assert with_its_steps(spec, (1, 2)).student.steps == (1, 2)
    other = RefineSpec.model_validate({**spec.model_dump(), "student": {"steps": 4}})
    with pytest.raises(SpecError, match=r"`student.steps` is \[4\], and `s` draws in 1 or 2 steps"):
        with_its_steps(other, (1, 2))


def test_a_manifest_has_the_oldest_format_that_can_say_it():
    assert [oldest_format(*about) for about in ((False, None), (True, None))] == [1, 2]
    assert oldest_format(False, (1, 2)) == oldest_format(True, (4,)) == 3


def test_a_refinement_begins_with_the_steps_of_its_student(run):
    from dimo_cli.runs.plans import begin_refinement

    brought = begin_refinement(str(run.folder), None, False, True, False).brought
    assert brought["student"]["steps"] == [1, 2]
    assert "steps" not in begin_refinement("digits", None, False, True, False).brought["student"]
