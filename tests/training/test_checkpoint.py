"""Checkpoints: whole or not there at all."""

import os

import pytest
import torch
from torch import nn

from dimo_cli.errors import MissingError
from dimo_cli.files import writing
from dimo_cli.files.untrusted import Untrusted
from dimo_cli.training import checkpoint
from dimo_cli.training.checkpoint import CheckpointFolder, random_state, restore_random_state


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints")


def networks(value):
    network = nn.Linear(2, 2)
    nn.init.constant_(network.weight, value)
    return {"student": network}


def test_what_was_saved_is_loaded(folder):
    folder.save(3, networks(1.5), {"note": [1, 2]})
    loaded = networks(0.0)
    assert folder.load(3, loaded) == {"note": [1, 2]}
    assert loaded["student"].weight.eq(1.5).all()


def test_nothing_but_finished_checkpoints_is_ever_visible(folder, monkeypatch):
    folder.save(1, networks(1.0), {})

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(MissingError, match="No space left") as caught:
        folder.save(2, networks(2.0), {})
    assert caught.value.exit_code == 3
    assert [path.name for path in folder.root.iterdir()] == ["step-1"]


def test_a_checkpoint_is_synced_before_it_is_renamed(folder, monkeypatch):
    events = []
    monkeypatch.setattr(writing, "fsync_path", lambda path: events.append(path.name))
    rename = type(folder.root).rename
    monkeypatch.setattr(
        type(folder.root), "rename", lambda a, b: (events.append(f"-> {b.name}"), rename(a, b))[1]
    )
    folder.save(1, networks(1.0), {})
    assert events.index("-> step-1") > events.index("student.safetensors")
    assert events.index("-> step-1") > events.index("state.pt")
    assert events[-1] == "checkpoints"


def test_all_of_a_checkpoint_is_for_the_same_readers(folder):
    path = folder.save(1, networks(1.0), {}, {"moments": {"0.step": torch.zeros(1)}})
    assert len(list(path.iterdir())) == 4
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_a_step_can_be_written_again(folder):
    folder.save(1, networks(1.0), {})
    folder.save(1, networks(2.0), {})
    loaded = networks(0.0)
    folder.load(1, loaded)
    assert loaded["student"].weight.eq(2.0).all()
    assert [path.name for path in folder.root.iterdir()] == ["step-1"]


def test_a_checkpoint_that_holds_code_is_not_executed(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder.save(1, networks(1.0), {})
    torch.save({"x": Evil()}, folder.path(1) / "state.pt")
    with pytest.raises(MissingError, match="No readable checkpoint"):
        folder.load_newest(networks(0.0))
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_that_asks_for_memory_is_refused_unread(folder, monkeypatch):
    class Large:
        def __reduce__(self):
            return bytearray, (2**33,)

    folder.save(1, networks(1.0), {})
    torch.save({"x": Large()}, folder.path(1) / "state.pt")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    with pytest.raises(Untrusted, match="objects other than tensors"):
        folder.read(1, networks(0.0))


def test_a_lack_of_memory_is_no_damage(folder, monkeypatch):
    for step in (1, 2):
        folder.save(step, networks(1.0), {})
    monkeypatch.setattr(checkpoint, "load_torch", lambda path: torch.empty(2**50))
    with pytest.raises(RuntimeError, match="memory"):
        folder.load_newest(networks(0.0))
    assert folder.steps() == [1, 2]


def test_pruning_keeps_the_newest_and_the_best(folder):
    for step in (1, 2, 3, 10):
        folder.save(step, networks(1.0), {})
    folder.prune(keep=1, best=2)
    assert folder.steps() == [2, 10]


class Card(torch.Generator):
    """A generator that says it is of a card."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("cards", "current", "expected"),
    [(1, 0, 2), (1, 7, 2), (3, 0, 0), (3, 2, 2), (3, 7, 2)],  # three: an earlier dimo kept all
)
def test_a_process_goes_on_with_the_state_of_its_own_card_alone(
    monkeypatch, cards, current, expected
):
    states, restored = [torch.full((16,), number) for number in range(3)], []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: states[2])
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    state = random_state(Card(), Card())
    assert state["cuda"] == states[2:]
    state["cuda"] = states[-cards:]
    restore_random_state(state, Card(), Card())
    assert restored == [states[expected]]
    restore_random_state(state, torch.Generator(), torch.Generator())
    assert len(restored) == 1, "a run on a CPU has none"


def test_every_random_stream_continues(generator):
    state = random_state(generator, generator)
    first = (torch.rand(3, generator=generator), torch.rand(3))
    restore_random_state(state, generator, generator)
    second = (torch.rand(3, generator=generator), torch.rand(3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
