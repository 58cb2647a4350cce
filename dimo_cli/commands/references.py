"""`dimo eval ref`: statistics of real images, to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption
from dimo_cli.commands.usage import Commands
from dimo_cli.console.output import out
from dimo_cli.console.progress import tracking
from dimo_cli.specs.shipped import SHIPPED

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Statistics of real images, to compare with."
)


@app.callback()
def references() -> None:
    """Statistics of real images, to compare with."""


@command(app, "build", "dimo eval ref build photos --out photos.npz --crop 256")
def build(
    folder: Annotated[Path, typer.Argument(help="Folder, .zip or .npz of real images.")],
    file: Annotated[Path, typer.Option("--out", "-o", help="The npz file to write.")],
    features: Annotated[
        list[str] | None, typer.Option(help=f"inception (default), dinov2, {', '.join(SHIPPED)}.")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="Of Inception: clean (default), legacy_tensorflow or legacy_pytorch."),
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Crop to a square of this side.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="How to crop: lanczos (default, COCO), adm (ImageNet) or bicubic."),
    ] = None,
    keep: Annotated[
        int,
        typer.Option(help="Keep the features of so many images, spread over all, for KID and PR."),
    ] = 10_000,
    inception: Annotated[str | None, typer.Option(help="File of Inception's weights.")] = None,
    local_dir: LocalDirOption = None,
) -> None:
    """Measure real images once, with everything that was done to them in the file."""
    from dimo_cli.evaluation.references import ReferencePlan, build_file
    from dimo_cli.hub.store import HubStore

    plan = ReferencePlan(folder, tuple(features or ["inception"]), resize, crop, recipe, keep)
    store = HubStore(local_dir, say=out.note)
    with tracking(out, "measure") as progress:
        document = build_file(plan, file, inception, store, out.note, progress)
    lines = [f"{key}: {value}" for key, value in document.items()]
    out.result(document, "\n".join(lines))
