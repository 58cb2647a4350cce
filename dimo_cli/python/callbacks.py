"""What can be called while a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dimo_cli.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image

    from dimo_cli.python.run import Run

STOP = "stop"
Answer = Literal["stop"] | None


class StopRun(Exception):
    """Raised in a callback, it ends the run as returning `"stop"` does."""


class Callback:
    """Called while a run trains: write a class with the methods that you need, and no others.

    It may be a subclass of this one, but need not be. `return "stop"` in any of them, or
    `raise StopRun`, ends the run after the step that it is at: with a checkpoint and without a
    student, as Ctrl-C does, and `resume` goes on from there. Any other error ends the run as well,
    and comes out of the function that you called.
    """

    def on_start(self, run: Run, step: int) -> Answer:
        """Training begins after `step`, which is 0 unless the run goes on."""
        return None

    def on_step(self, step: int) -> Answer:
        """A step is done."""
        return None

    def on_log(self, record: dict[str, Any]) -> Answer:
        """New numbers: a line of log.jsonl, every `train.log_every` steps."""
        return None

    def on_preview(self, step: int, grid: Image.Image) -> Answer:
        """A new sample grid, every `monitor.preview_every` steps; each pixel as it was drawn."""
        return None

    def on_alarm(self, name: str, message: str) -> Answer:
        """Something goes wrong (`collapse`, `auxiliary`, `reward_hacking`): what, and the cure."""
        return None

    def on_checkpoint(self, step: int, folder: Path) -> Answer:
        """A checkpoint was written, every `train.checkpoint_every` steps and when the run ends."""
        return None

    def on_note(self, message: str) -> Answer:
        """A sentence that the command would print: of a download, a skipped step, a rollback."""
        return None

    def on_end(self, run: Run) -> None:
        """The run is over, however it ended: `run.state` says how."""
        return


METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def check_callbacks(callbacks: Sequence[object]) -> None:
    """Refuse what would never be called."""
    if not isinstance(callbacks, (list, tuple)):
        raise SpecError(
            f"`callbacks` is a {type(callbacks).__name__}.", "Give a list: `callbacks=[mine]`."
        )
    for callback in callbacks:
        if isinstance(callback, type):
            raise SpecError(
                f"`callbacks` has the class `{callback.__name__}`.",
                f"Make one of it: `callbacks=[{callback.__name__}()]`.",
            )
        own = [name for name in dir(callback) if name.startswith("on_")]
        name = type(callback).__name__
        for method in own:
            if method not in METHODS:
                hint = did_you_mean(method, METHODS)
                raise SpecError(f"The callback `{name}` has a method `{method}`.", hint)
        if not own:
            raise SpecError(
                f"The callback `{name}` has none of the methods that are called.",
                f"Write at least one of {', '.join(METHODS)}.",
            )


def wants_stop(callback: object, method: str, arguments: Sequence[Any]) -> bool:
    """Call a callback, if it has that method; whether it wants the run to end."""
    call = getattr(callback, method, None)
    if call is None:
        return False
    try:
        answer = call(*arguments)
    except StopRun:
        return True
    if answer not in (None, STOP):
        raise SpecError(
            f"`{method}` of the callback `{type(callback).__name__}` returned {answer!r}.",
            f'Return "{STOP}" to end the run, and nothing to go on.',
        )
    return answer == STOP
