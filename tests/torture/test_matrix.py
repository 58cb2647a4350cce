"""Killed or out of room at any moment, whatever writes leaves nothing half done under its name.

Done again it ends with the same bits as if nothing had happened.
"""

import random
import shutil
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest

from tests.torture import faults
from tests.torture.harness import tidy_names
from tests.torture.writers import WRITERS

TRIALS = ("kill", "kill", "kill later", "kill later", "kill later",
          "full", "full", "full", "small disk", "small disk")  # fmt: skip
LATER = 0.05  # seconds at most behind a change
PAGE, LEAST = 4096, 8  # bytes of a disk come in pages; what leaves no file takes some on the way
# What belongs to the system or to the Hub's own client.
NOT_OURS = ("tmp/", "hf/hub/")


@cache
def undisturbed(name):
    """What a writer leaves that nothing happens to, how often it changes files, and its size."""
    writer, place = WRITERS[name], Path(tempfile.mkdtemp())
    try:
        found, changes = [], 0
        for folder in (place / "one", place / "two"):
            folder.mkdir()
            writer.lay_out(folder)
            with writer.with_hub() as hub:
                changes, code = faults.counted(writer.do, folder)
                assert code == 0, (place / f"{folder.name}.talk").read_text()
                found.append(writer.contents(folder, hub))
        assert found[0] == found[1]
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return found[0], changes, size
    finally:
        shutil.rmtree(place)


def trial(name, folder, happens):
    """Do something, let something happen to it, look at what is left, and do it again."""
    writer, (expected, _, _) = WRITERS[name], undisturbed(name)
    folder.mkdir(exist_ok=True)
    writer.lay_out(folder)
    with writer.with_hub() as hub:
        happens(writer.do, folder)
        for path, content in writer.contents(folder, hub).items():
            assert content == expected[path], f"{path} is not whole"
        faults.grow_old(folder)
        again = faults.Child(writer.do, folder)
        assert again.end() == 0, again.talk.read_text()
        assert writer.contents(folder, hub) == expected
        left = [path for path in tidy_names(folder) if not path.startswith(NOT_OURS)]
        assert left == []


def happening(kind, rng, name):
    """Something that happens to a process, as a function of its work and its folder."""
    _, changes, size = undisturbed(name)
    at = rng.randint(1, changes)
    match kind:
        case "kill":
            return lambda work, folder: faults.killed(work, folder, at)
        case "kill later":
            pause = rng.uniform(0, LATER)
            return lambda work, folder: faults.killed(work, folder, at, pause)
        case "full":
            return lambda work, folder: faults.filled(work, folder, at)
        case "small disk":
            room = PAGE * rng.randint(1, max(LEAST, size // PAGE))
            return lambda work, folder: faults.on_a_small_disk(work, folder, room)


@pytest.mark.parametrize("name", ["data encode", "eval ref build", "eval cache", "sample"])
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_in_the_middle_of_its_changes_a_writer_leaves_nothing_half_done(tmp_path, name, kind):
    middle = random.Random(0)
    middle.randint = lambda first, last: (first + last) // 2
    trial(name, tmp_path / "place", happening(kind, middle, name))


def test_the_matrix_has_a_hundred_trials():
    assert len(WRITERS) * len(TRIALS) == 100
    assert sum(kind.startswith("kill") for kind in TRIALS) == len(TRIALS) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_at_random_moments_a_writer_leaves_nothing_half_done(tmp_path, name, capsys):
    for number, kind in enumerate(TRIALS):
        kind = kind if kind != "small disk" or faults.may_mount() else "full"
        place = tmp_path / f"{number}"
        happens = happening(kind, random.Random(f"{name} {number}"), name)
        try:
            with faults.disk(place) if kind == "small disk" else nullcontext():
                trial(name, place, happens)
        except AssertionError as problem:
            raise AssertionError(f"{name}, trial {number} ({kind}): {problem}") from problem
        shutil.rmtree(place, ignore_errors=True)
    with capsys.disabled():
        print(f"{name}: {len(TRIALS)} of {len(TRIALS)} whole, and the same done again")  # noqa: T201
