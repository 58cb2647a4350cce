"""A tracker beside log.jsonl, through accelerate. It may fail or be away: the run goes on."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator

from dimo_cli.distributed.ranks import is_first
from dimo_cli.errors import MissingError
from dimo_cli.hub.network import answers
from dimo_cli.redacting import without_secrets

PROJECT = "dimo"
WANDB_SERVER, HUB = "https://api.wandb.ai", "https://huggingface.co"
PATIENCE = 60.0  # seconds that a tracker gets to send what it still has when a run is over


def check_tracker(name: str) -> None:
    """Refuse a tracker whose package is not installed."""
    if name != "none" and find_spec(name) is None:
        raise MissingError(
            f"`monitor.tracker` is {name}, but its package is not installed.",
            f"Install it with `pip install 'dimo-cli[{name}]'` or `pipx inject dimo-cli {name}`.",
        )


class Tracking:
    """What a run tells a tracker. Whatever goes wrong there is said once."""

    def __init__(self, name: str, accelerator: Accelerator, folder: Path) -> None:
        self.name, self.accelerator, self.folder = name, accelerator, folder
        self.say: Callable[[str], None] = lambda line: None

    def start(self, config: Mapping[str, Any], step: int, say: Callable[[str], None]) -> None:
        """Begin to track a run of this configuration from `step` on."""
        if self.name == "none" or not is_first():
            return
        self.say = say
        server = needed_server(self.name)
        if server and not answers(server):
            say(f"{self.name} is left out: {server} cannot be reached. log.jsonl has everything.")
            return
        settings = SETTINGS[self.name](self.folder, step, say)
        shown = None if self.name == "tensorboard" else {k: plain(v) for k, v in config.items()}
        self.attempt(lambda: self.accelerator.init_trackers(PROJECT, shown, {self.name: settings}))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Pass on the numbers of a step."""
        if self.accelerator.trackers:
            self.attempt(lambda: self.accelerator.log(dict(numbers), step=step))

    def finish(self) -> None:
        """Send what is left, for as long as that may take."""
        trackers = list(self.accelerator.trackers)
        self.accelerator.trackers.clear()
        if not trackers:
            return
        sending = threading.Thread(
            target=lambda: self.attempt(lambda: [tracker.finish() for tracker in trackers]),
            daemon=True,
        )
        sending.start()
        sending.join(PATIENCE)
        if sending.is_alive():
            self.say(f"{self.name} is still sending after {PATIENCE:.0f} s and is left alone.")
        elif self.name == "trackio":
            self.attempt(forget_trackio)

    def attempt(self, work: Callable[[], object]) -> None:
        """Do something with the tracker, and do without it from the first failure on."""
        try:
            # What trackers print belongs neither on stdout, where results go, nor into a panel.
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                work()
        except Exception as error:  # of whichever tracker
            self.accelerator.trackers.clear()
            told = without_secrets(f"{type(error).__name__}: {error}")
            reason = " ".join(told.split())[:300]
            self.say(f"{self.name} failed and is left out: {reason}. log.jsonl has everything.")


def forget_trackio() -> None:
    """Keep trackio from ending, and announcing, its run again when the program ends."""
    import trackio

    trackio.finish()


def plain(value: Any) -> str | int | float | bool:
    """A setting in a form that every tracker takes."""
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def needed_server(name: str) -> str | None:
    """The server that a tracker cannot do without; W&B and a local trackio can."""
    if name != "trackio":
        return None
    if os.environ.get("TRACKIO_SPACE_ID"):
        return os.environ.get("HF_ENDPOINT") or HUB
    return os.environ.get("TRACKIO_SERVER_URL")


def tensorboard_settings(folder: Path, step: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Steps after the checkpoint that a run goes on from are written again."""
    return {"purge_step": step + 1} if step else {}


def trackio_settings(folder: Path, step: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A run by the name of its folder."""
    return {"name": folder.name, "resume": "allow" if step else "never"}


def wandb_settings(folder: Path, step: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A run by the name of its folder, kept there; offline where W&B cannot be reached."""
    settings: dict[str, Any] = {
        "dir": str(folder),
        "name": folder.name,
        # Neither what the terminal shows nor the address of a repository is anybody's business.
        "settings": {"init_timeout": 30, "console": "off", "disable_git": True},
    }
    before = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    if step and before:
        settings |= {"id": before[-1].name.rpartition("-")[2], "resume": "allow"}
    if not os.environ.get("WANDB_MODE") and (reason := why_offline()):
        settings["mode"] = "offline"
        say(f"W&B logs offline: {reason}. Send it later with `wandb sync {folder}/wandb/*run-*`.")
    return settings


def why_offline() -> str | None:
    """Why W&B cannot be sent anything right now."""
    server = os.environ.get("WANDB_BASE_URL") or WANDB_SERVER
    if not (os.environ.get("WANDB_API_KEY") or has_login(server)):
        return "there is no login (`wandb login`)"
    return None if answers(server) else f"{server} cannot be reached"


def has_login(server: str) -> bool:
    """Whether `wandb login` left a key for a server."""
    named = os.environ.get("NETRC")
    candidates = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in candidates:
        try:
            if netrc(path).authenticators(urlsplit(server).hostname or ""):
                return True
        except (OSError, NetrcParseError):
            continue
    return False


SETTINGS: Mapping[str, Callable[[Path, int, Callable[[str], None]], dict[str, Any]]] = {
    "tensorboard": tensorboard_settings,
    "trackio": trackio_settings,
    "wandb": wandb_settings,
}
