"""`dimo report`: one page that tells a run truly, whatever is in its folder."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dimo_cli.console.plain import visible
from dimo_cli.files.png import save_png
from dimo_cli.redacting import without_secrets
from dimo_cli.reporting.charts import Chart, Series, axes, draw, round_steps, smooth, thin
from dimo_cli.reporting.document import SCRIPTS, STYLES, own_text
from dimo_cli.reporting.page import SCRIPTS as MORE_SCRIPTS
from dimo_cli.reporting.page import STYLES as MORE_STYLES
from dimo_cli.reporting.page import render
from dimo_cli.reporting.run_view import run_view
from dimo_cli.run_folder.origins import keep_origins, read_origins
from dimo_cli.specs.render import to_yaml
from tests.conftest import small_spec
from tests.helpers.hostile import HOSTILE, assert_visible
from tests.helpers.runs import copied

pytest_plugins = ("tests.helpers.browser",)

ATTACK = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
QUICK = (
    *("--set", "train.steps=4", "--set", "train.batch_size=8", "--set", "train.log_every=1"),
    *("--set", "monitor.fid_every=0", "--set", "monitor.preview_every=2"),
)


class Page(HTMLParser):
    """The elements, ids and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.ids, self.text, self.hidden = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self.hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden and data.strip():
            self.text.append(" ".join(data.split()))

    @property
    def words(self):
        return " ".join(self.text)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def record(step, **values):
    return {
        "step": step, "divergence": 0.5 / step, "entropy": 2.0, "top1": 0.5,
        "student_gradient": 10.0 ** -(step % 5), "auxiliary_loss": 2.5, "auxiliary_gap": 0.5,
        "images_per_second": 100.0, "peak_memory_gib": 0.5, "skipped": 0, "rollbacks": 0, **values,
    }  # fmt: skip


def make_run(folder, steps=30, samples=3, records=None, **groups):
    """A run folder as a run leaves it on its way, without training."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = small_spec(train={"steps": steps}, **groups)
    (folder / "run.yaml").write_text(to_yaml(spec))
    keep_origins(folder, {"train.steps": "flag --set train.steps", "init": "preset digits, line 8"})
    records = [record(step) for step in range(1, steps + 1)] if records is None else records
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in records))
    noise = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    for index in range(samples):
        about = {"dimo.conditions": json.dumps(["zero", "one"])}
        save_png(noise, folder / "samples" / f"step-{10 * (index + 1):06d}.png", about)
    return folder


def page_of(folder):
    return Page(render(folder))


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
        assert dimo("distill", "--preset", "digits", *QUICK, *quiet, *seed, "-o", name)
    result = dimo("eval", "fid", "one", "-n", 100, "--json")
    value = json.loads(result.stdout)["values"]["fid100"]
    told = page_of(tmp_path / "one").words
    assert f"{value:.4f}" in told
    assert "student_sha256" in told
    assert "No evaluation of these weights" in page_of(tmp_path / "two").words
    cached = next((tmp_path / "hf" / "dimo" / "eval").iterdir())
    cached.rename(tmp_path / "one" / "eval.json")  # as `dimo eval --json > RUN/eval.json` leaves it
    assert f"{value:.4f}" in page_of(tmp_path / "one").words


def make_outcome(folder, prompt, picture=True):
    folder.mkdir(parents=True)
    outcome = {
        "prompt": prompt, "score_before": 1.0, "score_best_of_n": 1.5, "score_after": 2.0,
        "rewards_before": {"clip": 1.0}, "rewards_after": {"clip": 2.0}, "start": 1,
        "trace": [[1.0, 1.5], [1.8, 2.0]], "seconds": 1.0, "times_a_plain_sample": 9.0,
        "origins": {"starts": "flag --starts of dimo tteo", "iterations": 3},
    }  # fmt: skip
    (folder / "outcome.json").write_text(json.dumps(outcome))
    spec = json.dumps({"starts": 2, "iterations": 1})
    for name in ("before", "after") if picture else ():
        about = {"dimo.tteo": spec, "dimo.student": "ab" * 32}
        save_png(np.zeros((8, 8, 3), np.uint8), folder / f"{name}.png", about)


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


def test_thinning_keeps_ends_and_spikes():
    points = [(i, 1.0) for i in range(10_000)]
    points[1234], points[7777], points[5000] = (1234, 99.0), (7777, -5.0), (5000, None)
    thinned = thin(points, 100)
    assert len(thinned) <= 100
    assert thinned[0] == (0, 1.0)
    assert thinned[-1] == (9999, 1.0)
    assert {(1234, 99.0), (7777, -5.0)} <= set(thinned)
    assert thinned == sorted(thinned)


def test_a_scale_is_logarithmic_only_where_a_linear_one_hides_the_curve():
    def chart(*values):
        return Chart("x", [Series("x", list(enumerate(values)))])

    assert chart(1e-6, 1.0, 10.0).is_logarithmic
    assert not chart(1.0, 2.0, 10.0).is_logarithmic
    assert not chart(0.0, 1e-6, 10.0).is_logarithmic  # zero has no logarithm


def test_what_is_next_to_nothing_lies_on_the_lower_edge():
    chart = Chart("entropy", [Series("entropy", [(1, 2.0), (2, 1e-3), (3, 1e-40)])])
    _, y_axis = axes(chart)
    assert y_axis.low == 2e-6
    assert y_axis(2.0) < y_axis(1e-3) < y_axis(1e-40) == y_axis(2e-6)


def test_a_long_curve_is_smoothed_and_a_short_one_is_not():
    zigzag = [(step, float(step % 2)) for step in range(200)]
    middle = [y for _, y in smooth(zigzag)][20:-20]
    assert all(0.4 < y < 0.6 for y in middle)
    assert smooth(zigzag[:40]) == zigzag[:40]
    powers = [(step, 10.0 ** (step % 2)) for step in range(200)]
    assert 2.5 < smooth(powers, is_logarithmic=True)[100][1] < 4  # 10 ** 0.5


def test_smoothing_closes_no_gap():
    points = [(step, None if step == 50 else 1.0) for step in range(100)]
    smoothed = smooth(points)
    assert smoothed[50] == (50, None)
    assert {y for _, y in smoothed if y is not None} == {1.0}


def test_a_curve_has_its_number_at_its_end():
    rising = Series("a", [(step, step / 100) for step in range(100)])
    close = Series("b", [(step, step / 100 + 0.001) for step in range(100)])
    drawn = draw(Chart("x", [rising, close]), "key")
    ends = re.findall(r'class="end c\d" x="\S+" y="(\S+)">([^<]+)', drawn)
    assert [text for _, text in ends] == ["0.981", "0.98"]
    (upper, _), (lower, _) = ends
    assert float(lower) - float(upper) >= 13  # they do not lie on each other
    assert drawn.count("curve raw") == 2


def test_a_chart_tells_in_words_what_it_shows():
    chart = Chart("FID", [Series("FID", [(10, 4.0), (20, None), (30, 2.0), (40, 2.5)])])
    words = chart.sentence()
    assert "FID: 4 at step 10, 2.5 at 40; lowest 2 at 30, highest 4 at 10." in words
    assert "Left out as not finite: 1 value." in words


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-3.0, -3.0], [1e-12, 1e12], [1e30, 2e30]])
def test_any_curve_can_be_drawn(tmp_path, values):
    records = [record(step, odd=value) for step, value in enumerate(values, 1)]
    page = page_of(make_run(tmp_path / "run", steps=len(values), records=records))
    drawn = [a["d"] for tag, a in page.elements if tag == "path"]
    assert drawn
    assert all(re.fullmatch(r"[MLHV0-9. -]+", path) for path in drawn)


def test_a_single_point_stands_in_the_middle_and_the_foot_has_whole_steps():
    drawn = draw(Chart("FID", [Series("FID", [(200, 4.0)])]), "fid")
    assert re.findall(r'class="x" x="[\d.]+" y="\d+">([\d.,]+)<', drawn) == ["199", "200", "201"]
    center, left, right = (
        float(re.search(pattern, drawn)[1])
        for pattern in (r'cx="([\d.]+)"', r'x="([\d.]+)" y="\d+">199', r'x="([\d.]+)" y="\d+">201')
    )
    assert center == pytest.approx((left + right) / 2)


def test_ticks_are_round_and_within():
    assert round_steps(0, 1) == [0, 0.5, 1.0]
    assert round_steps(3, 61) == [20, 40, 60]
    assert round_steps(-1, 1) == [-1.0, -0.5, 0.0, 0.5, 1.0]


@pytest.fixture
def written(tmp_path):
    """A report of a run and one of optimized prompts, both with hostile text in them."""
    run = make_run(tmp_path / "run", steps=30, records=[
        record(step, skipped=1, **{ATTACK: 0.5}) for step in range(1, 31)])  # fmt: skip
    (run / "notes.txt").write_text(ATTACK)
    make_outcome(tmp_path / "tteo" / "one", ATTACK)
    for folder in (run, tmp_path / "tteo"):
        (folder / "report.html").write_text(render(folder))
    return {"run": run / "report.html", "tteo": tmp_path / "tteo" / "report.html"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "tteo"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible_and_self_contained_in_a_browser(
    open_page, written, kind, width, dark
):
    seen = open_page(written[kind], width, dark)
    for details in seen.page.query_selector_all("details"):
        details.evaluate("box => { box.open = true }")
    assert seen.inaccessible() == []
    assert not seen.is_wider_than_the_window()
    assert seen.requests == []
    assert seen.errors == []


@pytest.mark.slow
def test_axe_is_at_work(open_page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='data:,'><input></body></html>")
    assert len(open_page(bad).inaccessible()) >= 2


@pytest.mark.slow
def test_the_slider_is_worked_by_keys_and_a_curve_by_the_pointer(open_page, written):
    page = open_page(written["run"]).page
    slider = page.get_by_label("Training step")
    slider.focus()
    assert page.locator("output").inner_text() == "step 30"
    page.keyboard.press("Home")
    assert page.locator("output").inner_text() == "step 10"
    assert slider.get_attribute("aria-valuetext") == "step 10"
    shown = page.locator(".slide:visible img")
    assert shown.count() == 1
    assert shown.get_attribute("alt") == "Grid of samples at step 10"
    chart = page.locator(".chart").filter(has_text="top-1").first
    chart.locator("svg").first.hover()
    assert "top-1 probability 0.5" in chart.locator(".readout").inner_text()


@pytest.mark.slow
def test_pictures_are_enlarged_and_the_arrows_go_through_the_steps(open_page, written):
    page = open_page(written["run"]).page
    page.get_by_role("button", name="Enlarge: Grid of samples at step 30").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("img").get_attribute("alt") == "Grid of samples at step 30"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text() == "Grid of samples at step 20 (2 of 3)"
    page.keyboard.press("Escape")
    assert dialog.count() == 0


@pytest.mark.slow
def test_no_table_breaks_a_word_on_a_phone(open_page, tmp_path, finished_run):
    page_file = tmp_path / "report.html"
    page_file.write_text(render(finished_run))
    page = open_page(page_file, width=390).page
    broken = page.evaluate(BROKEN_WORDS)
    assert broken == []


BROKEN_WORDS = """() => {
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    if (!node.parentElement.closest("table")) continue;
    for (const { 0: word, index } of node.textContent.matchAll(/[\\p{L}\\p{N}_]+/gu)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(word);
    }
  }
  return found;
}"""


@pytest.mark.slow
def test_without_scripts_and_on_paper_nothing_is_lost(open_page, written):
    plain = open_page(written["run"], java_script_enabled=False).page
    assert plain.locator(".slide:visible").count() == 3
    assert plain.locator("input:visible").count() == 0
    paper = open_page(written["run"]).page
    paper.emulate_media(media="print")
    assert paper.locator("nav:visible").count() == 0
    assert paper.locator(".slide:visible figcaption").inner_text() == "step 30"


SECRET = "canary-of-another-folder"


@pytest.fixture
def elsewhere(tmp_path):
    """Files that somebody keeps beside a run, and a link into them as each file of a run."""
    place = tmp_path / "elsewhere"
    outside = make_run(place, samples=1)
    (outside / "student").mkdir()
    texts = {
        "run.yaml": f"# {SECRET}\n",
        "notes.txt": SECRET,
        "log.jsonl": json.dumps(record(1, **{SECRET: 1.0})),
        "origins.json": json.dumps({"train.steps": SECRET}),
        "summary.json": json.dumps({"table": [], "note": SECRET}),
        "effort.jsonl": json.dumps(
            {"first_step": 0, "last_step": 9, "seconds": 9, "hardware": SECRET}
        ),
        "student/dimo.json": json.dumps({"weights_sha256": "0", "teacher": SECRET}),
    }
    for name, text in texts.items():
        (outside / name).write_text(text)
    about = {"dimo.conditions": json.dumps([SECRET])}
    save_png(np.full((8, 8, 3), 7, np.uint8), outside / "samples" / "step-000010.png", about)
    return place


LINKED = (
    "run.yaml", "notes.txt", "log.jsonl", "origins.json", "effort.jsonl", "summary.json", "student",
    "samples", "student/dimo.json", "samples/step-000010.png",
)  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_a_link_out_of_the_run_is_left_out_and_named(tmp_path, elsewhere, name):
    """The page is made to be passed on; a run folder may come from somebody else."""
    folder = make_run(tmp_path / "run")
    (folder / "student").mkdir()
    if "/" not in name and (folder / name).is_dir():
        (folder / name).rename(tmp_path / "gone")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere / name)
    page = page_of(folder)
    assert SECRET not in page.words
    assert SECRET not in render(folder)
    assert "left out, as a link leads to it outside of this folder" in page.words


def test_a_link_within_the_run_and_a_linked_run_are_shown(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "kept.txt").write_text("kept words")
    (folder / "notes.txt").symlink_to(folder / "kept.txt")
    (tmp_path / "latest").symlink_to(folder)
    words = page_of(tmp_path / "latest").words
    assert "kept words" in words
    assert "left out" not in words


def test_a_table_names_no_picture_of_elsewhere(tmp_path, elsewhere):
    """The steps of a table are part of a file's name."""
    folder = make_run(tmp_path / "run")
    (folder / "comparison" / "student-x").mkdir(parents=True)
    row = {
        "metric": "fid1k", "value": 1.0, "seconds_per_image": 1.0, "images": 9,
        "sampler": {"steps": "x/../../../elsewhere/samples/step-000010"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({"table": [row]}))
    html = render(folder)
    assert SECRET not in html
    assert "left out" in html


def test_links_of_optimized_prompts_stay_in_their_folder(dimo, tmp_path, elsewhere):
    outcome = {
        "prompt": "a", "trace": [[1.0]], "score_before": 0, "score_best_of_n": 0, "score_after": 0,
        "seconds": 1,
    }  # fmt: skip
    folder = tmp_path / "tteo"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "outcome.json").write_text(json.dumps(outcome))
    (folder / "a" / "before.png").symlink_to(elsewhere / "samples" / "step-000010.png")
    (elsewhere / "outcome.json").write_text(json.dumps({**outcome, "prompt": SECRET}))
    (folder / "b" / "outcome.json").unlink()
    (folder / "b" / "outcome.json").symlink_to(elsewhere / "outcome.json")
    html = render(folder)
    assert SECRET not in html
    assert Page(html).words.count("left out, as a link") == 2


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
