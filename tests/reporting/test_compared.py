"""`dimo report RUN RUN`: several runs over one another, on one page."""

import pytest

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.reporting.compared_view import compared_view
from dimo_cli.reporting.page import document, write_comparison
from tests.helpers.browser import assert_sound_with_all_opened
from tests.helpers.reports import ATTACK, Page, make_run, record

pytest_plugins = ("tests.helpers.browser",)


@pytest.fixture
def two(tmp_path):
    """Two runs that differ in a rate and in how long they are."""
    slow = {"student": {"optimizer": {"learning_rate": 1e-4}}}
    lines = [record(step, fid=30.0 / step, entropy=1.0) for step in range(1, 21)]
    return [
        make_run(tmp_path / "fast"),
        make_run(tmp_path / "slow", steps=20, samples=2, records=lines, **slow),
    ]


def page_of(folders):
    return Page(document("compared.html", compared_view(folders)))


def test_every_number_is_a_chart_with_a_curve_for_each_run_that_has_it(two):
    view = compared_view(two)
    curves = {plot.chart.title: [one.name for one in plot.chart.series] for plot in view["plots"]}
    assert curves["Divergence"] == ["fast", "slow"]
    assert curves["Auxiliary and student: student entropy"] == ["fast", "slow"]
    assert curves["FID of the student"] == ["slow"]
    assert "Trouble" not in " ".join(curves)


def test_what_differs_is_told_and_what_is_the_same_is_not(two):
    found = {row[0]: row[1:] for row in compared_view(two)["differences"]}
    assert found["train.steps"] == ["30", "20"]
    assert found["student.optimizer.learning_rate"] == ["0.0004", "0.0001"]
    assert "teacher.name" not in found
    same = compared_view([two[0], make_run(two[0].parent / "again")])
    assert same["differences"] == []


def test_final_numbers_stand_side_by_side(two):
    found = {row[0]: row[1:] for row in compared_view(two)["numbers"]}
    assert found["best on the way"] == ["–", "FID 1.5 of 1,000 images at step 20"]
    assert found["last student entropy"] == ["2", "1"]
    assert found["state"] == ["unfinished, step 30", "unfinished, step 20"]
    assert "student" not in found  # neither has a closing table


def test_a_closing_table_is_quoted_with_its_protocol(two, finished_run):
    from dimo_cli.reporting.collect import collect
    from dimo_cli.reporting.compared_view import numbers_table, student_number, teacher_number

    run = collect(finished_run)
    assert student_number(run) == teacher_number(run) == "–"
    sampler = {"network": "teacher:digits", "steps": 4}
    row = {"metric": "fid5k", "value": 2.0, "images": 5000, "seconds_per_image": 1.0}
    own = {"network": "student:abc", "steps": 1}
    run.rows = [
        {**row, "sampler": sampler, "reference": "digits"},
        {**row, "value": 3.0, "sampler": own, "reference": "digits"},
    ]
    assert student_number(run) == "FID 3.000 at 1 step, of 5,000 images, against digits"
    assert teacher_number(run) == "2.000 at 4 steps"
    run.rows.append({**run.rows[-1], "value": 2.5, "sampler": {**own, "steps": 4}})
    assert student_number(run).startswith("FID 2.500 at 4 steps")
    assert ["student", student_number(run)] in numbers_table([run])


def test_warnings_name_their_run(two):
    words = page_of(two).words
    assert "fast: This run is unfinished" in words
    assert "slow: This run is unfinished" in words


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folders = [make_run(tmp_path / place / "run", steps=3) for place in ("a", "b")]
    assert compared_view(folders)["names"] == [str(folder) for folder in folders]


def test_the_page_is_whole_and_nothing_in_a_run_becomes_markup(two, tmp_path):
    lines = [record(step, **{ATTACK: 1.0}) for step in range(1, 4)]
    page = page_of([*two, make_run(tmp_path / "<img src=x>", steps=3, records=lines)])
    assert page.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    assert page.count("img") == 3  # the newest grid of each
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert all(source.startswith("data:") for source in sources)


def test_the_command_writes_one_page_of_several_runs(dimo, two, tmp_path):
    done = dimo("report", *two)
    assert done.exit_code == 0
    assert "Report written to runs.html" in done.stdout
    assert "2 runs" in Page((tmp_path / "runs.html").read_text()).words
    assert dimo("report", *two, "--out", "both.html").exit_code == 0
    assert (tmp_path / "both.html").is_file()


def test_what_cannot_be_compared_is_refused(two, tmp_path):
    with pytest.raises(SpecError, match="named twice"):
        compared_view([two[0], two[0].parent / "." / "fast"])
    with pytest.raises(SpecError, match="at most 4 curves"):
        compared_view([tmp_path / str(number) for number in range(5)])
    with pytest.raises(MissingError, match="does not exist"):
        compared_view([two[0], tmp_path / "nowhere"])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible_and_self_contained_in_a_browser(
    open_page, two, tmp_path, width, dark
):
    target = write_comparison([*two, make_run(tmp_path / ("a-long-name" * 8))], tmp_path / "x.html")
    seen = open_page(target, width, dark)
    assert_sound_with_all_opened(seen)
