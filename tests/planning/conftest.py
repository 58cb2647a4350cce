"""What memory is estimated to be is held for rehearsals that are as long as a user's."""

import pytest

from dimo_cli.planning import memory, rehearsal

LONG = memory.MOST_CHUNKS  # before a session shortens it


@pytest.fixture
def whole_rehearsals(monkeypatch):
    monkeypatch.setattr(memory, "MOST_CHUNKS", LONG)
    monkeypatch.setattr(memory, "rehearse", rehearsal.rehearse)
