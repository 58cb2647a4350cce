"""What is read for a report, a card, a cache or a dataset has a size that it may have at most."""

import json
import os

import pytest

from dimo_cli.checking.files import carried_out
from dimo_cli.checking.folders import what_is_in
from dimo_cli.data.shards import INDEX, read_index
from dimo_cli.errors import DimoError, SpecError
from dimo_cli.evaluation.cache import read_cache
from dimo_cli.files.pictures import Unfit, open_picture
from dimo_cli.files.reading import MOST_DOCUMENT, MOST_LOG, read_tail
from dimo_cli.publishing import measured
from dimo_cli.publishing.contents import carried
from dimo_cli.publishing.preview import read_preview
from dimo_cli.reporting.collect import collect
from dimo_cli.reporting.pictures import embed
from dimo_cli.run_folder.effort import EFFORT, effort_of
from dimo_cli.run_folder.listing import log_records
from dimo_cli.run_folder.log import LONGEST_LINE, RunLog, records_of
from dimo_cli.run_folder.origins import ORIGINS, read_origins
from dimo_cli.sampling.tteo import NUMBERS, OUTCOME, read_outcome
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.registry import load_skeleton
from tests.torture.guards import in_little_memory, in_time


def of_nothing(path, size):
    """A file that claims so many bytes and takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


READERS = {
    "summary.json": lambda folder: measured.of_run(folder, "a" * 64),
    EFFORT: effort_of,
    INDEX: read_index,
}


@pytest.mark.parametrize("name", READERS)
def test_a_document_of_a_terabyte_is_refused(tmp_path, name):
    of_nothing(tmp_path / name, 2**40)
    with in_time(), in_little_memory(300), pytest.raises(DimoError, match="too large"):
        READERS[name](tmp_path)


def test_what_only_helps_is_passed_over_if_it_is_too_large(tmp_path):
    with in_time(), in_little_memory(300):
        assert read_cache(of_nothing(tmp_path / "a.json", 2**40)) is None
        of_nothing(tmp_path / ORIGINS, 2**40)
        assert read_origins(tmp_path) is None
    os.mkfifo(tmp_path / "pipe")
    with in_time():
        assert read_cache(tmp_path / "pipe") is None


def test_a_report_of_a_run_with_documents_of_terabytes_names_what_it_leaves_out(tmp_path):
    for name in ("run.yaml", "summary.json", ORIGINS, EFFORT, "fid.json"):
        of_nothing(tmp_path / name, 2**40)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    with in_time(), in_little_memory(400):
        run = collect(tmp_path)
    told = " ".join(run.damaged)
    assert "run.yaml" in told
    assert "summary.json" in told
    assert [record["step"] for record in run.records] == [1]


def test_of_a_very_long_log_the_end_is_shown_and_that_is_said(tmp_path, monkeypatch):
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in range(1000)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert len(collect(tmp_path).records) == 1000
    monkeypatch.setattr("dimo_cli.reporting.collect.MOST_LOG", 2000)
    run = collect(tmp_path)
    assert 50 < len(run.records) < 100
    assert run.last_step == 999
    assert "log.jsonl is very long" in run.damaged[0]
    assert not any("cannot be read" in line for line in run.damaged)


def test_the_log_of_a_week_is_read_whole(tmp_path):
    """At a line every two seconds, with thirty numbers in each."""
    assert MOST_LOG > MOST_DOCUMENT
    assert MOST_LOG >= 7 * 24 * 3600 / 2 * 30 * 28


def test_the_end_of_a_file_begins_with_a_whole_line(tmp_path):
    (tmp_path / "a.txt").write_text("first\nsecond\nthird\n")
    assert read_tail(tmp_path / "a.txt", 9) == ("third\n", False)
    assert read_tail(tmp_path / "a.txt", 100) == ("first\nsecond\nthird\n", True)


@pytest.mark.parametrize("setting", ["vit_dec_model_size", "vit_enc_model_size"])
def test_a_network_of_a_million_blocks_within_a_setting_is_refused_unbuilt(setting):
    size = {"width": 16, "layers": 1_000_000, "heads": 1}
    source = TeacherSource(name="titok-l32", architecture={setting: size})
    with in_time(), pytest.raises(SpecError, match=rf"{setting}.layers` is 1000000: at most 1,000"):
        load_skeleton(source)


def pipe(path):
    os.mkfifo(path)
    return path


def test_of_a_log_of_any_length_the_steps_that_were_undone_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step}) for step in range(1, 9)]
    path.write_text("\n".join([*lines[:4], "x" * 3 * LONGEST_LINE, *lines[4:], '{"step": 9']))
    with in_little_memory(100):
        RunLog(path).truncate(6)
    assert path.read_text().splitlines() == lines[:6]


def test_a_log_that_never_ends_is_refused_and_keeps_nobody_waiting(tmp_path):
    path = of_nothing(tmp_path / "log.jsonl", 2**40)
    with in_time(), in_little_memory(300):
        with pytest.raises(SpecError, match="too large: no log has more"):
            RunLog(path).truncate(3)
        path.unlink()
        with pytest.raises(SpecError, match="is a pipe"):
            RunLog(pipe(path)).truncate(3)
        with pytest.raises(SpecError, match="is a pipe"):
            records_of(path)
        assert log_records(tmp_path) == []


def test_an_outcome_of_a_terabyte_or_of_words_is_none(tmp_path):
    path, sound = tmp_path / OUTCOME, {"prompt": "a fox", **dict.fromkeys(NUMBERS, 1.0)}
    path.write_text(json.dumps(sound))
    assert read_outcome(tmp_path) == sound
    for broken in ({"seconds": "1"}, {"prompt": 3}, {"score_after": None}):
        path.write_text(json.dumps(sound | broken))
        assert read_outcome(tmp_path) is None
    with in_time(), in_little_memory(300):
        of_nothing(path, 2**40)
        assert read_outcome(tmp_path) is None
        path.unlink()
        pipe(path)
        assert read_outcome(tmp_path) is None


def test_a_cache_with_files_of_terabytes_and_pipes_is_read_again_to_its_end(tmp_path):
    cache = tmp_path / "dimo"
    (cache / "weights").mkdir(parents=True)
    blobs = tmp_path / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    of_nothing(cache / "a.json", 2**40)
    pipe(cache / "b.json")
    pipe(cache / "weights" / "c.safetensors")
    pipe(blobs / ("a" * 40))
    with in_time(), in_little_memory(300):
        found = {
            check.name: carried_out(check).problem for check in what_is_in(str(tmp_path)).checks
        }
    assert "too large" in found.pop("dimo/a.json")
    assert len(found) == 3
    assert all("is a pipe" in problem for problem in found.values())


def test_what_a_file_of_a_push_carries_is_not_read_without_end(tmp_path):
    names = ("dimo.json", "README.md", "preview.png", "model.safetensors")
    with in_time(), in_little_memory(300):
        for name in names:
            assert carried(of_nothing(tmp_path / name, 2**40)) == ("cannot be read",)
        for name in names[:3]:
            (tmp_path / name).unlink()
            assert carried(pipe(tmp_path / name)) == ("cannot be read",)


def test_a_picture_that_is_a_pipe_or_a_terabyte_is_none(tmp_path):
    with in_time(), in_little_memory(300):
        for path in (pipe(tmp_path / "a.png"), of_nothing(tmp_path / "b.png", 2**40)):
            assert embed(path, "a title", "what it shows") is None
            assert read_preview(path) is None
            with pytest.raises(Unfit):
                open_picture(path)
