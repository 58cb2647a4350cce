"""Options that several commands share, and what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.errors import SpecError
from dimo_cli.files.lines import decoded, lines_of
from dimo_cli.files.reading import MOST_PROMPTS, read_bytes
from dimo_cli.rewards.registry import check_reward

if TYPE_CHECKING:
    from dimo_cli.specs.distill import DistillSpec

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any value of the spec; may be repeated.",
        autocompletion=completing.keys,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        help="Start from a preset (see `dimo presets list`).",
        autocompletion=completing.presets_of_command,
    ),
]
LocalDirOption = Annotated[
    Path | None,
    typer.Option("--local-dir", help="Folder with the published files; nothing is downloaded."),
]
GalleryOption = Annotated[
    Path | None,
    typer.Option(
        "--gallery", help="HTML page of all images, with class or prompt and seed under each."
    ),
]
AnimateOption = Annotated[
    Path | None,
    typer.Option("--animate", help="GIF file: the teachers' steps, beside a student's one."),
]
PromptsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts-file",
        help="Text file with one prompt per line, or hub:OWNER/NAME:COLUMN for a dataset.",
    ),
]
StudentArgument = Annotated[
    str,
    typer.Argument(
        help="Run folder (RUN@best, RUN@last, RUN@step-N: a checkpoint of it), student folder, "
        "Hub id, or a built-in one by name.",
        autocompletion=completing.students,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Fixes the images.")]


# What of a run's loop has flags of its own.
LOOP = Fields(
    only=("train.steps", "train.batch_size"),
    said={
        "train.steps": "Training steps; default: the preset's",
        "train.batch_size": "Samples per pass; default: the preset's",
    },
)


@dataclass(frozen=True)
class RunOptions:
    """Where the spec of a run comes from, and where the run goes."""

    preset: PresetOption = None
    spec: Annotated[
        Path | None, typer.Option("--spec", help="A YAML spec, laid over the preset.")
    ] = None
    sets: SetOption = None
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/PRESET.")
    ] = None
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue the run in this folder.")
    ] = None
    local_dir: LocalDirOption = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and its memory; train nothing.")
    ] = False
    full: Annotated[
        bool, typer.Option("--full", help="With --dry-run: also every value of the spec.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Start even if memory seems not to be enough.")
    ] = False

    @property
    def settings(self) -> list[str]:
        """All that was set by name."""
        return with_local_dir(self.sets, self.local_dir)

    @property
    def has_folder(self) -> bool:
        """Whether the run folder was named."""
        return bool(self.folder or self.resume)


def with_local_dir(sets: list[str] | None, local_dir: Path | None) -> list[str]:
    """The `--set` values, with that of `--local-dir` behind them."""
    return [*(sets or []), *([f"teacher.local_dir={local_dir}"] if local_dir else [])]


def spec_of_preset(preset: str, sets: list[str] | None, local_dir: Path | None) -> DistillSpec:
    """The spec of a preset, for commands that need its teacher and train nothing."""
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.resolve import resolve_spec

    given = with_local_dir(sets, local_dir)
    return resolve_spec(DistillSpec, preset=preset, sets=given).spec


def read_prompts(file: Path | None) -> list[str]:
    """The prompts of a file, one a line, or of a dataset of the Hub."""
    if file is None:
        return []
    if str(file).startswith("hub:"):
        from dimo_cli.hub.prompts import prompt_file

        file, name = prompt_file(str(file), out.note)
        out.note(f"Prompts: {name}")
    try:
        lines = lines_of(decoded(read_bytes(file, MOST_PROMPTS)))
    except UnicodeDecodeError:
        raise SpecError(f"`--prompts-file` is {file}, which is no UTF-8 text.") from None
    return [line.strip() for line in lines if line.strip()]


def reward_weight(text: str) -> tuple[str, float]:
    """NAME=WEIGHT, or NAME alone for the weight 1."""
    name, equals, weight = text.partition("=")
    check_reward(name)
    try:
        return name, float(weight) if equals else 1.0
    except ValueError:
        raise SpecError(
            f"`--reward {text}` is not of the form NAME=WEIGHT.", "For example `--reward clip=0.2`."
        ) from None


def read_weights(texts: Sequence[str] | None) -> dict[str, float]:
    """The weight of each reward that `--reward` names."""
    weights: dict[str, float] = {}
    for name, weight in map(reward_weight, texts or ()):
        if name in weights:
            raise SpecError(
                f"`--reward` is given twice for {name!r}.",
                "A reward has one weight: leave one out.",
            )
        weights[name] = weight
    return weights


def check_png(grid: Path) -> None:
    """Refuse a grid that would be another kind of file."""
    check_ending("--grid", grid, (".png",), "Images are PNG files.")


def check_gallery(page: Path | None) -> None:
    """Refuse a gallery that would be another kind of file."""
    if page is not None:
        check_ending("--gallery", page, (".html", ".htm"), "A gallery is one HTML file.")


def check_ending(option: str, file: Path, endings: Sequence[str], why: str) -> None:
    """Refuse a file whose name ends otherwise, before anything is drawn."""
    if file.suffix.lower() not in endings:
        raise SpecError(f"`{option}` is {file}: it must end in {endings[0]}.", why)
