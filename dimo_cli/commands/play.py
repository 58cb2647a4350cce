"""`dimo play`: a student in a page of the browser."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, StudentArgument, read_weights
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.errors import MissingError
from dimo_cli.specs.flags import Given
from dimo_cli.specs.tteo import TteoSpec

NEEDED = ("starlette", "uvicorn")
SHOWN = "emoji"  # where nobody names a student
app = typer.Typer()
EXAMPLES = """
dimo play
dimo play shapes
dimo play runs/digits --port 0 --no-open
dimo play you/maskgen-1step --reward clip=1
"""
REWARDS = Fields(
    only=("rewards",), said={"rewards": "What TTEO raises; default: what suits the teacher"}
)


@command(app, "play", EXAMPLES)
def play(
    *,
    student: StudentArgument = SHOWN,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0: for other machines, too.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: any free one.")
    ] = 8190,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
    asked: Annotated[Given[TteoSpec], REWARDS],
    local_dir: LocalDirOption = None,
) -> None:
    """Play with a student in a web page: prompt or class, seed, r_init, teacher, TTEO."""
    check_packages()
    from dimo_cli.play.door import door_of
    from dimo_cli.play.server import open_port, serve
    from dimo_cli.play.studio import Studio
    from dimo_cli.sampling.tteo import settled
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    spec = asked.spec({"rewards": read_weights(asked.get("rewards"))})
    with open_port(host, port) as listening:
        place = str(local_dir) if local_dir else None
        loaded = open_student(student, LoadOptions(local_dir=place, say=out.note))
        if spec.rewards:
            settled(loaded, spec)  # refuses where they would have no effect
        studio = Studio(loaded, student, spec, local_dir, out.note)
        door = door_of(listening, host)
        url = page_url(listening) + door.path
        if door.token:
            out.note(
                "Whoever has the whole address can use this page, and nobody else can. Other "
                f"machines know this one as `{socket.gethostname()}`, or by its number."
            )

        def ready() -> None:
            out.result({"url": url, "student": student}, f"{student} is at {url}")
            out.data.file.flush()  # a program that waits for the address reads a pipe
            out.hint("Ctrl-C ends it.")
            if open_page and out.data.is_terminal:
                show_in_browser(url)

        serve(studio, listening, door, ready)
    out.note("Ended.")


def check_packages() -> None:
    """Refuse where the extra is not installed, before anything is loaded."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(
            f"`dimo play` needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} "
            "not installed.",
            f"`pipx inject dimo-cli {' '.join(missing)}`, or `pip install 'dimo-cli[play]'`.",
        )


def page_url(listening: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    address, port = listening.getsockname()[:2]
    if address in ("0.0.0.0", "::"):
        address = "127.0.0.1" if address == "0.0.0.0" else "::1"
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def show_in_browser(url: str) -> None:
    """Open the page where there is a desktop; a browser in the terminal would take it over."""
    import webbrowser

    desktop = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if desktop:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
