"""`dimo report`: one page that tells a run truly, whatever is in its folder."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dimo_cli.console.plain import visible
from dimo_cli.files.png import save_png
from dimo_cli.redacting import without_secrets
from dimo_cli.reporting.document import SCRIPTS, STYLES, own_text
from dimo_cli.reporting.page import SCRIPTS as MORE_SCRIPTS
from dimo_cli.reporting.page import STYLES as MORE_STYLES
from dimo_cli.reporting.page import render
from dimo_cli.reporting.run_view import run_view
from dimo_cli.run_folder.origins import keep_origins, read_origins
from tests.helpers.hostile import HOSTILE, assert_visible
from tests.helpers.reports import ATTACK, Page, make_outcome, make_run, page_of, record
from tests.helpers.runs import copied

QUICK = (
    *("--set", "train.steps=4", "--set", "train.batch_size=8", "--set", "train.log_every=1"),
    *("--set", "monitor.fid_every=0", "--set", "monitor.preview_every=2"),
)


def test_a_finished_run_has_written_its_report(dimo, tmp_path):
    table = ("--set", "monitor.table_samples=100", "--set", "monitor.teacher_steps=[1,2]")
    result = dimo("distill", "--preset", "digits", *QUICK, *table, "-o", "run")
    assert result.exit_code == 0, result.stderr
    assert "report to run/report.html" in result.stdout
    page = Page((tmp_path / "run" / "report.html").read_text())
    for words in ("Finished at step 4 of 4", "teacher, 2 steps", "student, 1 step", "FID100",
                  "preset digits, line 5", "flag --set train.steps", "digits-train-1797",
                  "Peak memory", "No warnings"):  # fmt: skip
        assert words in page.words, words
    pictures = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert pictures == [
        "Grid of samples at step 2", "Grid of samples at step 4", "Images of the teacher, 1 step",
        "Images of the teacher, 2 steps", "Images of the student, 1 step",
    ]  # fmt: skip
    assert "seven" in page.words


def test_a_report_that_fails_does_not_fail_the_run(dimo, tmp_path, monkeypatch):
    def broken(folder):
        raise RuntimeError("no room")

    monkeypatch.setattr("dimo_cli.reporting.page.render", broken)
    quiet = ("--set", "monitor.table_samples=0")
    result = dimo("distill", "--preset", "digits", *QUICK, *quiet, "-o", "run")
    assert result.exit_code == 0
    assert "no room" in result.stderr
    assert (tmp_path / "run" / "student" / "dimo.json").is_file()
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_says_what_to_do_next_in_commands_that_work(dimo, tmp_path, finished_run):
    copied(finished_run, tmp_path / "runs" / "it's one")
    commands = [step.command for step in run_view(Path("runs/it's one"))["next"]]
    assert [shlex.split(command)[1] for command in commands] == [
        "sample",
        "compare",
        "play",
        "eval",
    ]
    for command in commands[:2]:
        done = dimo(*shlex.split(command)[1:])
        assert done.exit_code == 0, done.stderr
    assert (tmp_path / "steps.gif").exists()
    for command in commands[2:]:
        assert dimo(*shlex.split(command)[1:], "--help").exit_code == 0


def test_a_run_of_prompts_is_drawn_from_with_one_of_its_own(tmp_path):
    teacher = {"name": "shapes"}
    folder = make_run(tmp_path / "run", teacher=teacher)
    (folder / "student").mkdir()
    (folder / "student" / "dimo.json").write_text('{"weights_sha256": "0"}')
    steps = run_view(folder)["next"]
    drawing = next(step for step in steps if " sample " in step.command)
    assert drawing.command.endswith("--prompt zero -n 8")


def test_an_unfinished_run_is_to_go_on(tmp_path):
    (step,) = run_view(make_run(tmp_path / "run", records=[record(1)], samples=0))["next"]
    assert step.command == shlex.join(["dimo", "distill", "--resume", str(tmp_path / "run")])


def test_a_report_says_when_and_on_what_a_run_was(tmp_path):
    folder = make_run(tmp_path / "run")
    line = {"first_step": 0, "last_step": 30, "seconds": 9, "hardware": "2 x NVIDIA H100"}
    (folder / "effort.jsonl").write_text(json.dumps(line))
    assert "at step 30 of 30, on 2 x NVIDIA H100." in page_of(folder).words
    (folder / "effort.jsonl").write_text(json.dumps({**line, "ended": "2026-01-31"}))
    assert "of 30 on 2026-01-31, on 2 x NVIDIA H100." in page_of(folder).words
    (folder / "effort.jsonl").write_text(json.dumps({**line, "ended": ATTACK}))
    assert "effort.jsonl` is damaged" in page_of(folder).words


def test_a_refinement_shows_its_start_its_losses_and_its_flags(dimo, tmp_path):
    quiet = ("--set", "monitor.table_samples=0")
    result = dimo("refine", "digits", "--gan", *QUICK, *quiet, "-o", "refined")
    assert result.exit_code == 0, result.stderr
    page = page_of(tmp_path / "refined")
    for words in ("on the student digits", "Adversarial losses", "What the discriminator says",
                  "flag --gan", "student digits", "There is no closing table"):  # fmt: skip
        assert words in page.words, words


def test_a_continued_run_keeps_who_set_what(dimo, tmp_path):
    quiet = ("--set", "monitor.table_samples=0")
    dimo("distill", "--preset", "digits", *QUICK, *quiet, "--set", "train.seed=5", "-o", "run")
    assert dimo("distill", "--resume", "run", "--set", "train.steps=6").exit_code == 0
    origins = read_origins(tmp_path / "run")
    assert origins["train.seed"] == "flag --set train.seed"
    assert origins["teacher.name"] == "preset digits, line 5"
    assert origins["train.steps"] == "flag --set train.steps"
    assert not [path for path, origin in origins.items() if "run.yaml" in origin]


def test_an_unfinished_run_says_so_and_how_to_go_on(tmp_path):
    page = page_of(make_run(tmp_path / "half", records=[record(step) for step in range(1, 8)],
                            samples=0))  # fmt: skip
    assert "This run is unfinished: it is at step 7 of 30" in page.words
    assert f"dimo distill --resume {tmp_path / 'half'}" in page.words
    assert "This run has no sample grids." in page.words


def test_a_run_that_goes_on_after_its_end_is_unfinished_again(tmp_path):
    folder = make_run(tmp_path / "run", steps=50, records=[record(i) for i in range(1, 41)])
    (folder / "student").mkdir()
    manifest = {"weights_sha256": "0", "training": {"steps": 30}}
    (folder / "student" / "dimo.json").write_text(json.dumps(manifest))
    words = page_of(folder).words
    assert "Unfinished at step 40 of 50" in words
    assert "Student, table and comparison are those of step 30" in words
    manifest["training"]["steps"] = 40  # a guard may end a run before its last step
    (folder / "student" / "dimo.json").write_text(json.dumps(manifest))
    assert "Finished at step 40 of 50" in page_of(folder).words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.yaml", "it is not known what was run"),
        ("log.jsonl", "there are no curves"),
        ("origins.json", "it is not known who set which value"),
        ("samples", "There are no sample grids"),
    ],
)
def test_a_missing_part_is_named(tmp_path, name, words):
    folder = make_run(tmp_path / "run")
    path = folder / name
    path.rename(tmp_path / "gone")
    assert words in page_of(folder).words


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.yaml", "train: {stepz: 3}", "run.yaml cannot be read as a spec"),
        ("run.yaml", "{", "run.yaml cannot be read as a spec"),
        ("log.jsonl", '{"step": 1, "top1": 0.5}\n{"step": 2, "to', "1 of 2 lines cannot be read"),
        ("log.jsonl", '[1]\n"x"\n{"step": "one"}\n', "3 of 3 lines cannot be read"),
        ("origins.json", "[", "it is not known who set which value"),
        ("summary.json", "[1, 2", "summary.json cannot be read"),
        ("summary.json", '{"table": [{"metric": "fid1k"}, 3]}', "rows of the closing table"),
        ("samples/step-000010.png", "no picture", "step-000010.png cannot be read"),
        ("effort.jsonl", "{}", "effort.jsonl"),
        ("student/dimo.json", "[]", "dimo.json cannot be read"),
    ],
)
def test_a_damaged_part_is_named_and_the_rest_is_shown(tmp_path, name, content, words):
    folder = make_run(tmp_path / "run")
    (folder / "student").mkdir()
    (folder / name).write_text(content)
    page = page_of(folder)
    assert words in page.words
    assert page.count("section") == 8


def test_nothing_in_a_run_folder_becomes_markup(tmp_path):
    records = [record(step, **{f"x{ATTACK}": 1.0}) for step in range(1, 5)]
    prompts = {"prompts": f"{ATTACK}.txt"}
    folder = make_run(tmp_path / "a<b>'\"&c", steps=4, records=records, condition=prompts)
    keep_origins(folder, {"condition.prompts": f"flag {ATTACK}"})
    (folder / "notes.txt").write_text(ATTACK)
    about = {"dimo.conditions": json.dumps([ATTACK])}
    save_png(np.zeros((8, 8, 3), np.uint8), folder / "samples" / "step-000040.png", about)
    html = render(folder)
    page = Page(html)
    assert page.count("script") == 1
    assert not [tag for tag, attributes in page.elements if "onerror" in attributes]
    assert "<script>alert" not in html
    assert page.words.count(ATTACK) >= 5  # the key, the prompts' file, its origin, note, condition
    assert "a<b>'\"&c" in page.words


def test_the_page_allows_itself_no_request_and_no_foreign_code(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "content" in a
                  and "default-src" in a["content"])  # fmt: skip
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))


def test_ids_are_unique_and_what_refers_to_them_finds_them(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    assert len(page.ids) == len(set(page.ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(page.ids)
        if (link := attributes.get("href", "")).startswith("#"):
            assert link[1:] in page.ids


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path):
    long = make_run(
        tmp_path / "long", steps=20_000, samples=300,
        records=[record(step, fid=3.0) for step in range(1, 20_001)],
    )  # fmt: skip
    large = np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), dtype=np.uint8)
    for step in (5000, 6000):
        save_png(large, long / "samples" / f"step-{step:06d}.png", {})
    html = render(long)
    assert len(html) < 8e6
    assert Page(html).count("img") == 40
    assert "40 of 302 grids are shown" in Page(html).words


def test_every_number_of_the_log_is_in_a_chart(tmp_path):
    records = [record(step, reward_clip=0.1 * step, brand_new=step) for step in range(1, 5)]
    page = page_of(make_run(tmp_path / "run", steps=4, records=records))
    assert "Reward: clip" in page.text
    assert "Brand new" in page.text
    assert "Trouble" not in page.text  # nothing was skipped


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record(i, skipped=3, rollbacks=1) for i in (1, 2)], "3 steps were skipped"),
        ([record(1, divergence=None)], "Not finite somewhere in the log: divergence"),
        ([record(i, entropy=2.0 if i < 5 else 0.01) for i in range(1, 30)], "lower `student."),
        ([record(i, auxiliary_gap=0.05 * i) for i in range(1, 80)], "it cannot keep up"),
        ([record(10, fid=1.0), record(20, fid=2.0)], "it was 1 at step 10"),
        ([record(10, fid=1.0), record(20, fid=2.0)], "The last FID of 1,000 images is 2"),
        ([record(i, entropy=0.0, top1=1.0) for i in (1, 2)], "The student collapsed: at step 2"),
    ],
)
def test_an_ailing_run_is_warned_of(tmp_path, records, words):
    page = page_of(make_run(tmp_path / "run", records=records))
    assert words in page.words


def test_a_healthy_run_is_not_warned_of(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "student").mkdir()
    (folder / "student" / "dimo.json").write_text('{"weights_sha256": "0"}')
    assert "No warnings" in page_of(folder).words


def test_evaluations_of_the_same_weights_are_shown_with_their_protocol(dimo, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    quiet = ("--set", "monitor.table_samples=0")
    for name in ("one", "two"):
        seed = ("--set", f"train.seed={len(name) + (name == 'two')}")
        done = dimo("distill", "--preset", "digits", *QUICK, *quiet, *seed, "-o", name)
        assert done.exit_code == 0
    result = dimo("eval", "fid", "one", "-n", 100, "--json")
    value = json.loads(result.stdout)["values"]["fid100"]
    told = page_of(tmp_path / "one").words
    assert f"{value:.4f}" in told
    assert "student_sha256" in told
    assert "No evaluation of these weights" in page_of(tmp_path / "two").words
    cached = next((tmp_path / "hf" / "dimo" / "eval").iterdir())
    cached.rename(tmp_path / "one" / "eval.json")  # as `dimo eval --json > RUN/eval.json` leaves it
    assert f"{value:.4f}" in page_of(tmp_path / "one").words


def test_optimized_prompts_are_reported_before_and_after(dimo, tmp_path):
    make_outcome(tmp_path / "tteo" / "one", "two red circles")
    make_outcome(tmp_path / "tteo" / "two", ATTACK, picture=False)
    (tmp_path / "tteo" / "three").mkdir()
    save_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "tteo" / "three" / "before.png", {})
    assert dimo("report", "tteo").exit_code == 0
    page = Page((tmp_path / "tteo" / "report.html").read_text())
    for words in ("two red circles", ATTACK, "three is unfinished", "two: pictures are missing",
                  "Score by iteration", "2 × 1", "flag --starts of dimo tteo",
                  "Its pictures are missing", "student abababababab"):  # fmt: skip
        assert words in page.words, words
    assert page.count("script") == 1
    assert page.count("img") == 2
    assert page.words.count("two red circles") == 3  # in the table, over its part, and hidden
    for words in ("before: 1", "after: 2"):
        assert words in page.words


def test_a_single_prompt_has_no_table_of_prompts(tmp_path):
    make_outcome(tmp_path / "tteo" / "one", "two red circles")
    assert "Scores by prompt" not in page_of(tmp_path / "tteo").words


@pytest.mark.parametrize("text", ["{}", '{"prompt": 3}', "[", '{"prompt": "x", "trace": [[]]}'])
def test_a_damaged_outcome_is_named(tmp_path, text):
    make_outcome(tmp_path / "tteo" / "one", "two red circles")
    (tmp_path / "tteo" / "bad").mkdir()
    (tmp_path / "tteo" / "bad" / "outcome.json").write_text(text)
    assert "bad/outcome.json cannot be read" in page_of(tmp_path / "tteo").words


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("report", "nowhere"), 3, "does not exist"),
        (("report", "empty"), 3, "holds no run"),
        (("report", "run", "--out", "x.pdf"), 2, "must end in .html"),
        (("report", "run", "--out", "file/x.html"), 3, "Cannot write"),
    ],
)
def test_mistakes_are_sentences(dimo, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    make_run(tmp_path / "run")
    result = dimo(*arguments)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr


def test_the_command_says_where_the_page_is(dimo, tmp_path):
    make_run(tmp_path / "run")
    found = json.loads(dimo("report", "run", "--out", "deep/page.html", "--json").stdout)
    assert found == {
        "report": "deep/page.html",
        "bytes": (tmp_path / "deep" / "page.html").stat().st_size,
    }


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-3.0, -3.0], [1e-12, 1e12], [1e30, 2e30]])
def test_any_curve_can_be_drawn(tmp_path, values):
    records = [record(step, odd=value) for step, value in enumerate(values, 1)]
    page = page_of(make_run(tmp_path / "run", steps=len(values), records=records))
    drawn = [a["d"] for tag, a in page.elements if tag == "path"]
    assert drawn
    assert all(re.fullmatch(r"[MLHV0-9. -]+", path) for path in drawn)


def test_a_page_turns_no_text_around_and_shows_no_signed_address(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "notes.txt").write_text(f"{HOSTILE.replace(chr(0xD800), '')} https://h/x?a=1&sig=abc")
    html = render(folder)
    assert_visible(html)
    assert "sig=***" in html
    for name in (
        *STYLES,
        *MORE_STYLES,
        *SCRIPTS,
        *MORE_SCRIPTS,
    ):  # whose hashes the page's policy names
        assert visible(without_secrets(own_text(name))) == own_text(name)
