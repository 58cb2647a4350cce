"""An arena: what meets in it, how its numbers are summed up, and what a folder of one holds."""

import json
import random
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from scipy import stats

from dimo_cli.errors import DivergedError, SpecError
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.metrics.protocol import Result
from dimo_cli.planning.hours import Hours
from dimo_cli.runs import arena
from dimo_cli.runs.arena_table import ArenaResult, Contender, Outcome
from dimo_cli.runs.arena_text import markdown, measured_parts
from dimo_cli.runs.bouts import begun_with, entrants
from dimo_cli.runs.intervals import T, interval
from dimo_cli.specs.arena import METHODS, ArenaSpec

SMALL = ["--set", "train.batch_size=4", "--set", "monitor.preview_images=2"]
SHORT = ["--teacher", "digits", "--methods", "dimo,idlm", "--budget", "8", "--seeds", "1"]
SHORT += ["--steps", "1", "--samples", "16", *SMALL]


def of(tmp_path, *sets, **asked):
    return {one.method: one for one in entrants(ArenaSpec(**asked), sets, tmp_path)}


def test_every_method_has_the_same_number_of_forwards_of_the_student(tmp_path):
    found = of(tmp_path, teacher="digits", budget="7e4", steps=(1, 2, 4), seeds=2)
    assert [one.refusal for one in found.values()] == [None] * 10
    forwards = [bout.forwards for one in found.values() for bout in one.bouts]
    assert max(forwards) <= 70_000
    assert min(forwards) > 0.98 * 70_000
    assert [bout.seed for bout in found["fpd"].bouts] == [0, 1]
    assert found["fpd"].bouts[0].spec.student.steps == (1, 2, 4)
    assert found["redi"].bouts[0].spec.student.steps == (1,)
    assert found["catdrift"].bouts[0].spec.train.batch_size == 128, "that of its own preset"


def test_a_teacher_without_presets_of_the_methods_gets_their_settings(tmp_path):
    found = of(tmp_path, teacher="maskgit", budget="7e4", methods="dimo,sdtt,catdrift", steps="2")
    assert found["sdtt"].bouts[0].spec.objectives[0].kind == "sdtt"
    assert found["sdtt"].bouts[0].spec.init.mask_ratio.value == 1
    assert found["dimo"].bouts[0].spec.teacher.name == "maskgit"
    assert "No real images ship with `maskgit`" in found["catdrift"].refusal


@pytest.mark.parametrize(
    ("method", "asked", "reason"),
    [
        ("redi", {"steps": (2, 4)}, "one step alone"),
        ("dimo", {"budget": "60"}, "less than one step of dimo"),
        ("catdrift", {"teacher": "shapes"}, "No real images ship with `shapes`"),
    ],
)
def test_a_method_that_cannot_be_used_says_why(tmp_path, method, asked, reason):
    assert reason in of(tmp_path, methods=method, **asked)[method].refusal


def test_what_the_arena_decides_cannot_be_set(tmp_path):
    with pytest.raises(SpecError, match=r"--budget decides on `train\.steps`"):
        of(tmp_path, "train.steps=3")
    with pytest.raises(SpecError, match="There is no preset"):
        of(tmp_path, teacher="digitz")


def test_an_interval_is_that_of_students_t():
    assert list(T) == pytest.approx([stats.t.ppf(0.975, n) for n in range(1, len(T) + 1)], rel=1e-6)
    values = [1.0, 2.0, 4.0]
    reach = 4.302653 * stdev(values) / 3**0.5
    found = interval(values)
    assert (found.low, found.high) == pytest.approx((fmean(values) - reach, fmean(values) + reach))
    assert found.kind == "95 %"


def test_two_seeds_have_a_range_and_one_has_no_interval():
    assert interval([3.0, 1.0]).words == "2 (1 to 3)"
    assert interval([3.0, 1.0]).kind == "range"
    assert interval([3.0]).words == "3"
    assert (interval([3.0]).low, interval([3.0]).kind) == (None, "none")


def test_an_interval_holds_the_mean_as_often_as_it_says():
    draw = random.Random(0)
    samples = (interval([draw.gauss(0, 1) for _ in range(3)]) for _ in range(2000))
    assert sum(one.low <= 0 <= one.high for one in samples) / 2000 == pytest.approx(0.95, abs=0.015)


def measured_as(*fids):
    """Evaluations with these numbers, one after another."""
    found = iter(fids)

    def evaluate(spec, store):
        numbers = {"fid16": next(found), "precision": 0.5, "recall": 0.25}
        return Evaluation([Result(name, value, {}) for name, value in numbers.items()], {})

    return patch.object(arena, "evaluate", evaluate)


def test_an_arena_trains_measures_and_writes_all_of_it(dimo, tmp_path):
    with measured_as(2.0, 1.0):
        done = dimo("arena", *SHORT)
    assert done.exit_code == 0, done.output
    place = tmp_path / "runs" / "arena-digits"
    table = json.loads((place / "arena.json").read_text())
    assert [one["method"] for one in table["results"]] == ["dimo", "idlm"]
    assert [one["numbers"]["1"]["fid"]["mean"] for one in table["results"]] == [2.0, 1.0]
    run = table["results"][1]["runs"][0]
    assert (run["steps"], run["forwards"]) == (2, 8)
    assert run["seconds"] > 0
    assert (place / "runs" / "idlm" / "seed-0" / "student" / "dimo.json").is_file()
    text = (place / "arena.md").read_text()
    assert "| IDLM | 1 | 1 (best) | 0.5 | 0.25 |" in text
    assert "dimo arena --teacher digits --methods dimo,idlm --budget 8" in text
    page = (place / "arena.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert 'http-equiv="Content-Security-Policy"' in page
    assert "1 (best)" in done.stdout
    # Nothing is trained again, and a folder of other settings is not taken for this one's.
    with measured_as(2.0, 1.0), patch.object(arena, "distill", side_effect=AssertionError):
        again = dimo("arena", *SHORT, "--json")
    assert json.loads(again.stdout) == table
    other = dimo("arena", *SHORT, "--set", "loss.teacher_temperature=2")
    assert other.exit_code == 2
    assert "with other settings" in other.stderr
    larger = dimo("arena", *["16" if word == "8" else word for word in SHORT])
    assert larger.exit_code == 2
    assert "with `--budget 8`" in larger.stderr


def test_a_dry_run_of_methods_that_cannot_be_used_fails_as_the_arena_would(dimo):
    planned = dimo("arena", "--methods", "redi", "--steps", "2,4", "--dry-run")
    assert planned.exit_code == 3, planned.output
    assert "No method of this arena can be used" in planned.stderr


@pytest.mark.parametrize("text", ["", '{"budget', "[]", '{"results": []}'])
def test_a_table_that_is_none_is_named_and_left_alone(dimo, tmp_path, text):
    (tmp_path / "arena.json").write_text(text)
    refused = dimo("arena", *SHORT, "--out", ".")
    assert refused.exit_code == 2, refused.output
    assert "`arena.json` is damaged, or no table of an arena" in refused.stderr
    assert (tmp_path / "arena.json").read_text() == text


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_damaged_reason_of_a_divergence_is_none(tmp_path, text):
    (tmp_path / "diverged.json").write_text(text)
    assert arena.reason_of_divergence(SimpleNamespace(folder=tmp_path)) == "it diverged"


def test_a_run_that_was_stopped_goes_on_and_what_is_done_stays(dimo, tmp_path):
    def first_alone(spec, folder, *rest, **more):
        if spec.objectives:
            raise KeyboardInterrupt
        return real(spec, folder, *rest, **more)

    real = arena.distill
    with measured_as(2.0), patch.object(arena, "distill", first_alone):
        dimo("arena", *SHORT)
    place = tmp_path / "runs" / "arena-digits"
    assert [one["method"] for one in json.loads((place / "arena.json").read_text())["results"]] == [
        "dimo"
    ]
    with measured_as(2.0, 1.0), patch.object(arena, "distill", wraps=real) as trained:
        done = dimo("arena", *SHORT)
    assert (done.exit_code, trained.call_count) == (0, 1), done.output


def test_a_method_that_fails_does_not_end_the_arena(dimo):
    def work(spec, folder, *rest, **more):
        if spec.objectives:
            raise SpecError("This teacher has no room for it.")
        raise DivergedError("Training diverged.")

    with patch.object(arena, "distill", work):
        done = dimo("arena", *SHORT)
    assert done.exit_code == 3
    assert "This teacher has no room for it." in done.stdout
    assert "seed 0: Training diverged." in done.stdout


def test_rates_are_chosen_on_a_seed_that_is_not_reported(dimo, tmp_path):
    def work(spec, folder, *rest, **more):
        (folder / "student").mkdir(parents=True)
        (folder / "student" / "dimo.json").write_text("{}")
        trained.append((spec.train.seed, spec.student.optimizer.learning_rate))

    trained = []
    tuned = ["--teacher", "digits", "--methods", "dimo", "--tune", "--seeds", "2", "--steps", "1"]
    with patch.object(arena, "distill", work), measured_as(3.0, 2.0, 1.0, 5.0, 6.0):
        done = dimo("arena", *tuned)
    assert done.exit_code == 0, done.output
    assert trained == [(100, 2e-4), (100, 4e-4), (100, 8e-4), (0, 8e-4), (1, 8e-4)]
    text = (tmp_path / "runs" / "arena-digits" / "arena.md").read_text()
    assert "| Di[M]O | 2 | 1 | chosen |" in text
    assert "5.5 (5 to 6)" in text


def told_hours(training, pairs=None):
    return Hours(training, None, None, "told", pairs)


def test_pairs_are_drawn_once_for_all_runs_of_a_seed(dimo):
    asked = ["arena", "--methods", "redi", "--steps", "1", "--seeds", "2", "--tune", "--dry-run"]
    with patch("dimo_cli.runs.bouts.hours_of") as hours:
        hours.return_value = told_hours(2000.0, pairs=1200.0)
        done = dimo(*asked, "--json")
        timed = dimo(*asked, "--budget", "1600s", "--json")
    (one,) = json.loads(done.stdout)["methods"]
    assert one["hours"] == (5 * 800 + 3 * 1200) / 3600  # seeds 0 and 1, and 100 three times
    (one,) = json.loads(timed.stdout)["methods"]
    assert one["steps"] == 1100 // 2, "what pairs leave of the time is for steps"


def test_a_dry_run_lists_the_runs_with_hours(dimo, tmp_path):
    with patch("dimo_cli.runs.bouts.hours_of") as hours:
        hours.return_value = told_hours(1800.0)
        done = dimo("arena", "--methods", "dimo,redi", "--steps", "2", "--dry-run", "--json")
        timed = dimo("arena", "--methods", "dimo", "--budget", "5m", "--dry-run", "--json")
    first, second = json.loads(done.stdout)["methods"]
    assert (len(first["runs"]), first["hours"]) == (3, 1.5)
    assert "one step alone" in second["refused"]
    (only,) = json.loads(timed.stdout)["methods"]
    assert (only["hours"], only["steps"]) == (0.25, 183)
    assert not (tmp_path / "runs").exists()


def test_a_run_ends_when_its_time_is_over(dimo, tmp_path):
    with patch("dimo_cli.runs.bouts.hours_of") as hours, measured_as(1.0):
        hours.return_value = told_hours(1e-2)  # as if thousands of steps would fit
        done = dimo(
            "arena", "--methods", "dimo", "--budget", "0.3s", "--seeds", "1", "--steps", "1", *SMALL
        )
    assert done.exit_code == 0, done.output
    folder = tmp_path / "runs" / "arena-digits"
    (one,) = json.loads((folder / "arena.json").read_text())["results"]
    assert 1 <= one["runs"][0]["steps"] < 300
    assert begun_with(folder, "dimo") > 1000, "the same plan when the arena goes on"


def test_the_numbers_are_those_of_dimo_eval(dimo, tmp_path):
    """Nothing is replaced here: a run of one step, and 16 images in one and two steps."""
    options = ["--methods", "dimo", "--budget", "12", "--seeds", "1", "--steps", "1,2", "-n", "16"]
    done = dimo("arena", *options, *SMALL, "--out", "a", "--json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["results"]
    run = "a/runs/dimo/seed-0"
    same = dimo("eval", "pr", run, "-n", "16", "--steps", "2", "--json")
    found = Evaluation.read(json.loads(same.stdout))
    told = {name: number["mean"] for name, number in one["numbers"]["2"].items()}
    assert set(told) == {"fid", "precision", "recall"}
    assert told["recall"] == pytest.approx(found["recall"])
    assert one["numbers"]["1"]["fid"]["mean"] != told["fid"]


def test_of_students_of_prompts_the_distance_to_real_images_is_measured_too(dimo):
    options = ["--budget", "32", "--seeds", "1", "--steps", "1", "-n", "8", *SMALL]
    asked = ["arena", "--teacher", "shapes", "--methods", "dimo", *options, "--tune"]
    done = dimo(*asked, "--out", "a", "--json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["results"]
    assert list(one["numbers"]["1"]) == ["geneval", "fid"]
    assert 0 <= one["numbers"]["1"]["geneval"]["mean"] <= 1
    same = dimo("eval", "fid", "a/runs/dimo/seed-0", "-n", "8", "--json")
    found = Evaluation.read(json.loads(same.stdout))
    assert one["numbers"]["1"]["fid"]["mean"] == pytest.approx(found["fid"])


def test_a_second_table_is_of_as_much_time_for_all(dimo, tmp_path):
    """The same methods once more, with the rates of the first table, in a folder inside."""
    trained = []

    def work(spec, folder, *rest, **more):
        (folder / "student").mkdir(parents=True)
        (folder / "student" / "dimo.json").write_text("{}")
        trained.append((folder, spec.student.optimizer.learning_rate))

    place = tmp_path / "runs" / "arena-digits"
    asked = ["--methods", "dimo", "--budget", "70400", "--also", "5m", "--seeds", "1", "--tune"]
    asked = ["arena", *asked, "--steps", "1"]
    numbers = measured_as(2.0, 3.0, 1.0, 5.0, 6.0)
    with (
        patch("dimo_cli.runs.bouts.hours_of") as hours,
        numbers,
        patch.object(arena, "distill", work),
    ):
        hours.return_value = told_hours(600.0)
        plan = dimo(*asked, "--dry-run", "--json")
        done = dimo(*asked, "--json")
    assert done.exit_code == 0, done.output
    planned = json.loads(plan.stdout)
    assert (planned["methods"][0]["steps"], planned["also"][0]["steps"]) == (1100, 550)
    assert [str(folder) for folder, _ in trained[3:]] == [
        "runs/arena-digits/runs/dimo/seed-0",
        "runs/arena-digits/also/runs/dimo/seed-0",
    ]
    assert trained[3][1] == trained[4][1] == trained[2][1] == 8e-4
    table = json.loads(done.stdout)
    assert table["results"][0]["numbers"]["1"]["fid"]["mean"] == 5.0
    assert table["within_also"]["results"][0]["numbers"]["1"]["fid"]["mean"] == 6.0
    text = (place / "arena.md").read_text()
    assert "## Numbers\n" in text
    assert "## Numbers, 5 minutes of training\n" in text
    assert "--budget 70400 --also 5m" in text
    assert "Numbers, 5 minutes of training" in (place / "arena.html").read_text()
    assert json.loads((place / "also" / "arena.json").read_text())["budget"] == "5m"


def test_a_run_on_a_cpu_tells_no_memory_as_all_share_a_process(dimo, tmp_path):
    alone = ["dimo" if word == "dimo,idlm" else word for word in SHORT]
    with measured_as(2.0):
        done = dimo("arena", *alone, "--json")
    assert done.exit_code == 0, done.output
    (one,) = json.loads(done.stdout)["results"]
    assert one["runs"][0]["memory_gib"] is None
    text = (tmp_path / "runs" / "arena-digits" / "arena.md").read_text()
    assert "| ms a step |\n" in text


def test_runs_on_a_card_tell_the_memory_that_they_had_there():
    took = Outcome(Path("run"), 0, 1.0, 5, 320, 2.0, 0.4, 1.5, None)
    result = ArenaResult(ArenaSpec(teacher="digits"), (Contender("dimo", "Di[M]O", (took,)),))
    what_they_took = measured_parts(result)[0]
    assert (what_they_took.head[-1], what_they_took.rows[0][-1]) == ("GiB on the card", "1.5")


def test_papers_stand_beside_the_table_and_nothing_is_claimed_of_them(tmp_path):
    asked = ArenaSpec(methods="dimo,redi,idlm")
    titles = [METHODS[name].title for name in asked.methods]
    contenders = tuple(map(Contender, asked.methods, titles))
    text = markdown(ArenaResult(asked, contenders, folder=tmp_path))
    (part,) = text.split("## What papers report")[1:]
    assert "with which none of them compares. None is known for images of: IDLM." in part
    assert "| ReDi3-distill | maskgit | 1 | FID 11.68, IS 182 |" in part
    assert "maskgit | 1 | FID 6.91, IS 214 |" in part
    assert "SDTT" not in part
