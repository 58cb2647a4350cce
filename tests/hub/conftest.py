"""What tests of the Hub share."""

import pytest


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """The client waits between its attempts; the tests do not."""
    import huggingface_hub.file_download as download
    import huggingface_hub.utils._http as http

    class Clock:
        """The true time, but for its pauses."""

        def __getattr__(self, name):
            return getattr(http_time, name)

        def sleep(self, seconds):
            pass

    http_time = http.time
    monkeypatch.setattr(http, "time", Clock())
    monkeypatch.setattr(download, "time", Clock())
