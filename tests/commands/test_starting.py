"""A fast start: what torch makes when it is imported is never searched for garbage."""

import gc
import sys

import pytest

from dimo_cli.commands.starting import importing


@pytest.fixture
def _without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_without_torch")
def test_nothing_is_searched_for_garbage_while_torch_is_imported():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.usefixtures("_without_torch")
def test_what_was_imported_is_not_searched_at_exit_either():
    with importing():
        kept = [[] for _ in range(10_000)]
    assert gc.get_freeze_count() > len(kept)
    assert not any(found is kept for found in gc.get_objects())


def test_a_process_that_has_torch_goes_on_as_it_was():
    frozen = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
