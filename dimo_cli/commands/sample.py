"""`dimo sample`: images from a student in one step, or from its teacher in many."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands.options import (
    GuidanceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    StepsOption,
    TeacherOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    command,
    example,
)

if TYPE_CHECKING:
    from dimo_cli.specs.sample import SampleSpec
    from dimo_cli.teachers.protocol import Teacher

SHOWN = 40  # images drawn in the terminal at most; the PNG has all

EXAMPLES = example(
    "dimo sample --class 7 -n 16 --seed 3 --grid out.png",
    "dimo sample --student runs/digits --class seven --class 3",
    "dimo sample --teacher --steps 16 --class 7",
)


@command
def sample(
    student: Annotated[
        str | None,
        typer.Option("--student", "-s", help="Run or student folder; default: built in."),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", "-c", help="Class by number or name; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Number of images.")] = 16,
    seed: SeedOption = 0,
    grid: Annotated[
        Path, typer.Option("--grid", "-g", help="PNG file of all images in a grid.")
    ] = Path("samples.png"),
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write each image into this folder.")
    ] = None,
    teacher: TeacherOption = False,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    columns: Annotated[int, typer.Option(help="Images per row.")] = 10,
    pixels: Annotated[int, typer.Option(help="Smallest side of an image in the PNG.")] = 64,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images: one pass of a student, or `--teacher --steps K` for comparison."""
    from dimo_cli.specs.flags import spec_from_flags
    from dimo_cli.specs.sample import SampleSpec

    values = {
        "student": student,
        "classes": tuple(classes or ()),
        "count": count,
        "columns": columns,
        "pixels": pixels,
        "sampler": {
            "teacher": teacher,
            "seed": seed,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "steps": steps,
            "guidance": guidance,
        },
    }
    spec = spec_from_flags(SampleSpec, values, {"count": "-n"})
    draw(spec, grid, folder)


def draw(spec: SampleSpec, grid_file: Path, folder: Path | None) -> None:
    """Sample, save and show."""
    from rich.console import Group
    from rich.text import Text

    from dimo_cli import runs  # torch starts here
    from dimo_cli.console import images
    from dimo_cli.console.output import out
    from dimo_cli.console.progress import counting
    from dimo_cli.errors import SpecError
    from dimo_cli.students import BUILTIN, load_student

    if grid_file.suffix.lower() != ".png":
        raise SpecError(f"`--grid` is {grid_file}: it must end in .png.", "Images are PNG files.")
    student = load_student(Path(spec.student) if spec.student else BUILTIN)
    labels = chosen_labels(student.teacher, spec)
    started = time.perf_counter()
    with counting(out, "sample", len(labels)) as advance:
        pixels, protocol = runs.sample_images(student, labels, spec.sampler, advance)
    seconds = time.perf_counter() - started
    names = [student.teacher.class_names[label] for label in labels]
    provenance = runs.provenance(student, spec.sampler, protocol)
    shown_classes = {"dimo.class": ", ".join(dict.fromkeys(names))}
    large = images.grid(images.enlarge(pixels, spec.pixels), spec.columns, gap=4)
    images.save_png(large, grid_file, {**provenance, **shown_classes})
    files = [str(grid_file)]
    if folder is not None:
        for index, (picture, name) in enumerate(zip(pixels, names, strict=True)):
            path = folder / f"{index:05d}.png"
            about = {**provenance, "dimo.class": name, "dimo.index": str(index)}
            images.save_png(images.enlarge(picture[None], spec.pixels)[0], path, about)
            files.append(str(path))
    document: dict[str, Any] = {
        "images": len(labels),
        "files": files,
        "classes": names,
        "seconds": round(seconds, 4),
        "seed": spec.sampler.seed,
        "sampler": protocol,
    }
    speed = f"{len(labels)} images in {seconds:.2f} s"
    shown = []
    if out.data.is_terminal:
        shown = [images.draw(pixels[:SHOWN], spec.columns, out.data.width), Text("")]
    out.result(document, Group(*shown, Text(f"{speed}, saved to {grid_file}")))


def chosen_labels(teacher: Teacher, spec: SampleSpec) -> list[int]:
    """The class of each image: the chosen ones in turn, or all of them."""
    names = teacher.class_names
    chosen = [class_number(word, names) for word in spec.classes] or list(range(len(names)))
    return [chosen[index % len(chosen)] for index in range(spec.count)]


def class_number(word: str, names: tuple[str, ...]) -> int:
    """A class given by number or by name."""
    from dimo_cli.errors import SpecError, did_you_mean

    if word.lower() in names:
        return names.index(word.lower())
    try:
        number = int(word)
    except ValueError:
        raise SpecError(f"There is no class `{word}`.", did_you_mean(word, names)) from None
    if not 0 <= number < len(names):
        raise SpecError(
            f"`--class` is {number}: classes go from 0 to {len(names) - 1}.",
            f"By name: {', '.join(names)}.",
        )
    return number
