"""A report tells nothing of what lies outside of its folder."""

import json

import numpy as np
import pytest

from dimo_cli.files.png import save_png
from dimo_cli.reporting.page import render
from tests.helpers.reports import Page, make_run, page_of, record

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
