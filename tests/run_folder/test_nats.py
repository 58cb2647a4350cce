"""A run's KL to its teacher: the mean of its last logged steps, where everyone looks for it."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dimo_cli.cards.card import student_card
from dimo_cli.console.live import LiveView
from dimo_cli.reporting.curves import KL_CHART, charts_of
from dimo_cli.reporting.run_view import abouts_of, collect
from dimo_cli.run_folder.nats import MOST, teacher_kl, teacher_kl_of
from dimo_cli.students.folder import BUILTIN, describe_student, load_student


def log_of(values):
    return [{"step": step, "teacher_kl": value} for step, value in enumerate(values)]


def test_it_is_the_mean_of_the_last_steps_with_its_error():
    found = teacher_kl(log_of([50.0] * 7 + [1.0, 3.0] * (MOST // 2)))
    assert (found.value, found.steps) == (2.0, MOST)
    assert found.error == pytest.approx(0.1, rel=0.01)
    assert found.words == "2 ± 0.1 nats per token, mean over the last 100 logged steps"


def test_of_one_step_there_is_no_error_and_of_none_nothing():
    assert teacher_kl(log_of([0.25])).words == "0.25 nats per token, mean over the last logged step"
    assert teacher_kl(log_of([None, float("nan")])) is None
    assert teacher_kl([{"step": 1, "divergence": 2.0}]) is None


def test_a_run_folder_has_it_in_its_log(tmp_path):
    assert teacher_kl_of(tmp_path) is None
    lines = "\n".join(json.dumps(line) for line in log_of([1.0, 2.0]))
    (tmp_path / "log.jsonl").write_text(lines + "\n")
    assert teacher_kl_of(tmp_path).value == 1.5


@pytest.mark.parametrize("is_measured", [True, False])
def test_the_panel_shows_it_where_it_is_measured(is_measured):
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    view = LiveView(console, "a run")
    view.task = view.progress.add_task("distill", total=2, completed=0, speed="")
    record = {"step": 1, "images_per_second": 10.0, "divergence": 1.0}
    view.log(record | ({"teacher_kl": 0.321} if is_measured else {}))
    console.print(view.render())
    shown = console.file.getvalue()
    assert ("KL to the teacher (nats per token)" in shown) == is_measured
    assert ("0.321" in shown) == is_measured


def test_the_report_draws_it_with_its_mean_and_a_word_of_explanation(finished_run):
    run = collect(finished_run)
    charts = {chart.title: chart for chart in charts_of(run.records, {}, abouts_of(run))}
    about = charts[KL_CHART].about
    assert "a lower bound" in about
    assert "mean over the last" in about
    without = [{k: v for k, v in r.items() if k != "teacher_kl"} for r in run.records]
    assert KL_CHART not in {chart.title for chart in charts_of(without, {}, {})}


def test_the_card_of_a_student_says_it(finished_run):
    card = (finished_run / "student" / "README.md").read_text()
    assert f"KL to its teacher: {teacher_kl_of(finished_run).words}." in card
    assert "it is a lower bound" in card


def test_a_student_of_which_it_is_not_known_says_nothing_of_it():
    facts = describe_student(load_student(BUILTIN["digits"]))
    assert "KL to its teacher" not in student_card(facts)
    known = replace(facts, teacher_kl=teacher_kl(log_of([0.5])))
    assert "## Evaluation\n\nKL to its teacher: 0.5 nats" in student_card(known)
