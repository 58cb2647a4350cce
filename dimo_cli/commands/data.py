"""`dimo data`: real images as tokens, for adversarial refinement."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dimo_cli.commands import completing
from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption, SetOption, spec_of_preset
from dimo_cli.commands.usage import Commands
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import counted
from dimo_cli.specs.data import EncodeSpec
from dimo_cli.specs.flags import Given

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Encode real images into tokens.")

NAMES_SHOWN = 3
EXAMPLES = """
dimo data encode imagenet/train --preset maskgit --out data/imagenet-maskgit
dimo data encode photos --preset maskgen-l --out data/photos --processes 4
dimo data encode hub:you/photos:caption --preset maskgen-l --out data/photos
dimo data encode shards/ --preset maskbit --out data/maskbit --local-dir weights
"""


@app.callback()
def data() -> None:
    """Encode real images into tokens."""


@command(app, "encode", EXAMPLES)
def encode(
    *,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            help="Encode for the teacher of this preset.",
            autocompletion=completing.presets,
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    asked: Given[EncodeSpec],
    local_dir: LocalDirOption = None,
    sets: SetOption = None,
) -> None:
    """Encode images for a teacher. Run again after an interruption: finished shards are kept.

    Images that cannot be read or would lose something (16 bits, several frames, transparent
    pixels) are skipped and listed in `skipped.jsonl`.
    """
    spec = asked.spec()
    teacher_source = spec_of_preset(preset, sets, local_dir).teacher

    from dimo_cli.data.encode import encode as encode_images
    from dimo_cli.data.images import open_source
    from dimo_cli.distributed.ranks import can_meet, is_first, joined_ranks
    from dimo_cli.teachers.registry import load_skeleton, load_teacher

    images = open_source(spec.source, load_skeleton(teacher_source).takes_prompts, out.note)
    spec = spec.model_copy(update={"source": images.named(spec.source)})
    teacher = load_teacher(teacher_source, out.note, with_backbone=False)
    if can_meet() and not is_first():
        out.silence()
    meeting = joined_ranks() if can_meet() else nullcontext()
    with meeting, counting(out, "encode", len(images)) as advance:
        done = encode_images(spec, images, teacher, teacher_source, folder, advance)
    document = {
        "folder": str(folder),
        "finished": done.index is not None,
        "teacher": teacher.name,
        "images": done.images - len(done.skipped),
        "skipped": len(done.skipped),
        "shards": done.shards,
        "shards_kept": done.kept,
        "files_left_out": images.others,
        "index": done.index.model_dump(mode="json") if done.index else None,
    }
    kept = f", {done.kept} of them kept" if done.kept else ""
    state = "" if done.index else " (other processes are not done)"
    line = f"{document['images']} images in {done.shards} shards{kept}: {folder}{state}"
    if done.skipped:
        out.note(about_skipped(done.skipped, folder))
    if images.others:
        out.note(f"{images.others} files are no images and were left out.")
    out.result(document, Text(line))


def about_skipped(skipped: Sequence[tuple[str, str]], folder: Path) -> str:
    """How many images were skipped, the first of them with their reasons, and where all are."""
    first = "; ".join(f"`{name}`: {why}" for name, why in skipped[:NAMES_SHOWN])
    more = f"; and {len(skipped) - NAMES_SHOWN:,} more" if len(skipped) > NAMES_SHOWN else ""
    return (
        f"Skipped {counted(len(skipped), 'image')}: {first}{more}. "
        f"`{folder / 'skipped.jsonl'}` lists all; once they are mended, the same command encodes "
        "them. `--strict` stops at the first instead."
    )
