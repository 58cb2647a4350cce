"""A tracker beside log.jsonl, through accelerate. It may fail or be away: the run goes on."""

from __future__ import annotations

import io
import os
import shlex
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from accelerate import Accelerator

from dimo_cli.console.next_steps import from_here
from dimo_cli.distributed.ranks import is_first
from dimo_cli.errors import MissingError
from dimo_cli.files.png import Pixels
from dimo_cli.hub.network import answers
from dimo_cli.redacting import without_secrets
from dimo_cli.specs.monitor import MonitorSpec

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

    def __init__(self, monitor: MonitorSpec, accelerator: Accelerator, folder: Path) -> None:
        self.name, self.monitor = monitor.tracker, monitor
        self.accelerator, self.folder = accelerator, folder
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
        settings = SETTINGS[self.name](self.monitor, self.folder, step, say)
        shown = None if self.name == "tensorboard" else {k: plain(v) for k, v in config.items()}
        project = self.monitor.project
        self.attempt(lambda: self.accelerator.init_trackers(project, shown, {self.name: settings}))
        for line in self.places():
            say(line)

    def places(self) -> list[str]:
        """Where the run can be seen."""
        found: list[str] = []
        if self.accelerator.trackers:
            (tracker,) = self.accelerator.trackers
            place = partial(PLACES[self.name], self.monitor, self.folder)
            self.attempt(lambda: found.append(place(tracker.tracker)))
        return found

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Pass on the numbers of a step."""
        if self.accelerator.trackers:
            self.attempt(lambda: self.accelerator.log(dict(numbers), step=step))

    def show(self, pixels: Pixels | None, step: int) -> None:
        """Pass on a sample grid."""
        if self.accelerator.trackers and pixels is not None:
            (tracker,) = self.accelerator.trackers
            self.attempt(partial(SHOW[self.name], tracker, pixels, step))

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
        except (Exception, SystemExit) as error:  # of whichever tracker; some end the program
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


def tensorboard_settings(
    monitor: MonitorSpec, folder: Path, step: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Steps after the checkpoint that a run goes on from are written again."""
    return {"purge_step": step + 1} if step else {}


def trackio_settings(
    monitor: MonitorSpec, folder: Path, step: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """A run by the name of its folder; tags are among its settings, for trackio has none."""
    return {"name": folder.name, "resume": "allow" if step else "never"}


def wandb_settings(
    monitor: MonitorSpec, folder: Path, step: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """A run by the name of its folder, kept there; offline where W&B cannot be reached."""
    settings: dict[str, Any] = {
        "dir": str(folder),
        "name": folder.name,
        "entity": monitor.entity,
        "tags": list(monitor.tags) or None,
        # Neither what the terminal shows nor the address of a repository is anybody's business.
        "settings": {"init_timeout": 30, "console": "off", "disable_git": True},
    }
    before = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    if step and before:
        settings |= {"id": before[-1].name.rpartition("-")[2], "resume": "allow"}
    if not os.environ.get("WANDB_MODE") and (reason := why_offline()):
        settings["mode"] = "offline"
        say(f"W&B logs offline: {reason}.")
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


def tensorboard_place(monitor: MonitorSpec, folder: Path, run: Any) -> str:
    """How to look at a run of TensorBoard."""
    return f"See the run with `{shlex.join(['tensorboard', '--logdir', from_here(folder)])}`."


def trackio_place(monitor: MonitorSpec, folder: Path, run: Any) -> str:
    """Where a run of trackio is."""
    if space := os.environ.get("TRACKIO_SPACE_ID"):
        return f"See the run at {HUB}/spaces/{space}."
    if server := os.environ.get("TRACKIO_SERVER_URL"):
        return f"See the run at {server.partition('?')[0]}."  # behind it may be a token
    return f"See the run with `{shlex.join(['trackio', 'show', '--project', monitor.project])}`."


def wandb_place(monitor: MonitorSpec, folder: Path, run: Any) -> str:
    """Where a run of W&B is, or how it gets there."""
    if address := getattr(run, "url", None):
        return f"See the run at {address}."
    if getattr(run, "disabled", False):
        return "W&B keeps nothing of this run, as WANDB_MODE says."
    runs = shlex.quote(f"{from_here(folder)}/wandb")
    return f"Send the run to W&B later with `wandb sync {runs}/offline-run-*`."


def show_in_tensorboard(tracker: Any, pixels: Pixels, step: int) -> None:
    """Log a sample grid."""
    tracker.log_images({"samples": pixels[None]}, step=step, dataformats="NHWC")


def show_in_trackio(tracker: Any, pixels: Pixels, step: int) -> None:
    """Log a sample grid; accelerate does not know how to."""
    import trackio

    tracker.tracker.log({"samples": trackio.Image(pixels)}, step=step)


def show_in_wandb(tracker: Any, pixels: Pixels, step: int) -> None:
    """Log a sample grid."""
    tracker.log_images({"samples": [pixels]}, step=step)


PLACES: Mapping[str, Callable[[MonitorSpec, Path, Any], str]] = {
    "tensorboard": tensorboard_place,
    "trackio": trackio_place,
    "wandb": wandb_place,
}
SHOW: Mapping[str, Callable[[Any, Pixels, int], None]] = {
    "tensorboard": show_in_tensorboard,
    "trackio": show_in_trackio,
    "wandb": show_in_wandb,
}
SETTINGS: Mapping[
    str, Callable[[MonitorSpec, Path, int, Callable[[str], None]], dict[str, Any]]
] = {
    "tensorboard": tensorboard_settings,
    "trackio": trackio_settings,
    "wandb": wandb_settings,
}
