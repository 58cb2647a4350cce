"""`dimo sample`: images from a student in one step, or from a teacher in many."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.options import (
    ClassOption,
    GuidanceOption,
    JsonOption,
    LocalDirOption,
    QuietOption,
    SamplerOption,
    SeedOption,
    SetOption,
    StepsOption,
    TeacherOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    command,
    example,
    sampler_flags,
    with_local_dir,
)

if TYPE_CHECKING:
    from dimo_cli.specs.sample import SampleSpec
    from dimo_cli.students.target import Target
    from dimo_cli.teachers.protocol import Teacher

SHOWN = 40  # images drawn in the terminal at most; the PNG has all

EXAMPLES = example(
    "dimo sample --class 7 -n 16 --seed 3 --grid out.png",
    'dimo sample --prompt "two red circles above a blue square"',
    "dimo sample --student runs/digits --class seven --class 3",
    "dimo sample --teacher --steps 16 --class 7",
    'dimo sample --student Yuanzhi/DiMO --class "golden retriever"',
    'dimo sample --preset meissonic --teacher --prompt "a red fox in the snow" -n 1',
    "dimo sample --class 3 --init my-digit.png",
    "dimo sample --interpolate three eight --frames 10",
)


@command
def sample(
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            "-s",
            help="Run folder, student folder or Hub id; default: a built-in one, `shapes` for "
            "prompts and `digits` for classes.",
            autocompletion=completing.students,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            help="With --teacher: sample the teacher of this preset.",
            autocompletion=completing.presets,
        ),
    ] = None,
    classes: ClassOption = None,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="Prompt for a text model; repeatable.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Number of images; default: 16.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Image whose tokens replace the random ones of the input."),
    ] = None,
    interpolate: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--interpolate",
            metavar="A B",
            help="Turn one input into another: each an image, `random`, a class or a prompt.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Images of --interpolate; default: 8.")
    ] = None,
    seed: SeedOption = 0,
    grid: Annotated[
        Path, typer.Option("--grid", "-g", help="PNG file of all images in a grid.")
    ] = Path("samples.png"),
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write each image into this folder.")
    ] = None,
    teacher: TeacherOption = False,
    method: SamplerOption = "published",
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = 0,
    top_p: TopPOption = 0.0,
    r_init: Annotated[
        float | None, typer.Option("--r-init", help="Share of mask tokens in a student's input.")
    ] = None,
    columns: Annotated[
        int | None, typer.Option(help="Images per row; default: as suits their size.")
    ] = None,
    pixels: Annotated[int, typer.Option(help="Smallest side of an image in the PNG.")] = 64,
    local_dir: LocalDirOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images: one pass of a student, or `--teacher --steps K` for comparison."""
    given = dict(locals())  # every argument by name
    from dimo_cli.specs.flags import spec_from_flags
    from dimo_cli.specs.sample import SampleSpec

    values = {
        "student": student,
        "preset": preset,
        "classes": tuple(classes or ()),
        "prompts": tuple(prompts or ()),
        **({} if count is None else {"count": count}),
        "init": init,
        "interpolate": interpolate,
        "frames": frames,
        "columns": columns,
        "pixels": pixels,
        "sampler": {**sampler_flags(given), "r_init": r_init},
    }
    spec = spec_from_flags(SampleSpec, values, {"count": "-n", "sampler.method": "--sampler"})
    if grid.suffix.lower() != ".png":
        from dimo_cli.errors import SpecError

        raise SpecError(f"`--grid` is {grid}: it must end in .png.", "Images are PNG files.")
    draw(spec, open_target(spec, local_dir, sets or []), grid, folder)


def open_target(spec: SampleSpec, local_dir: Path | None, sets: list[str]) -> Target:
    """Load what is to be sampled."""
    from dimo_cli.commands.starting import importing
    from dimo_cli.console.output import out
    from dimo_cli.errors import SpecError

    with importing():
        from dimo_cli.students.target import Target

    if spec.preset:
        from dimo_cli.specs.distill import DistillSpec
        from dimo_cli.specs.resolve import resolve_spec
        from dimo_cli.students.student import best_device
        from dimo_cli.teachers.registry import load_teacher

        given = with_local_dir(sets, local_dir)
        source = resolve_spec(DistillSpec, preset=spec.preset, sets=given).spec.teacher
        teacher = load_teacher(source, out.note)
        return Target(teacher.to(best_device()))
    if sets:
        raise SpecError("`--set` changes a preset: add --preset.", "For a student leave it out.")
    from dimo_cli.students.folder import BUILTIN
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    folder = str(local_dir) if local_dir else None
    options = LoadOptions(spec.sampler.teacher, folder, out.note)
    by_prompt = bool(spec.prompts) or names_prompts(spec)
    builtin = "shapes" if by_prompt else "digits"
    student = open_student(spec.student or BUILTIN[builtin], options, by_prompt)
    return Target(student.teacher, student)


def names_prompts(spec: SampleSpec) -> bool:
    """Whether an end of `--interpolate` can only be a prompt, where no student is named."""
    ends = spec.interpolate or ()
    return not spec.student and any(" " in end and not Path(end).exists() for end in ends)


def draw(spec: SampleSpec, target: Target, grid_file: Path, folder: Path | None) -> None:
    """Sample, save and show."""
    from rich.console import Group
    from rich.text import Text

    from dimo_cli.console import terminal
    from dimo_cli.console.output import out
    from dimo_cli.console.progress import counting
    from dimo_cli.files import png
    from dimo_cli.sampling import interpolating, samplers
    from dimo_cli.teachers.classes import short_name

    target, about_input = started_from(target, spec)
    strip = interpolating.plan_strip(target, spec) if spec.interpolate else None
    wanted = strip.wanted if strip else chosen_conditions(target.teacher, spec)
    started = time.perf_counter()
    with counting(out, "sample", len(wanted)) as advance:
        if strip:
            pixels, protocol = strip.draw(advance)
        else:
            pixels, protocol = samplers.sample_images(target, wanted, spec.sampler, advance)
    protocol |= about_input
    seconds = time.perf_counter() - started
    kind = "prompt" if target.teacher.takes_prompts else "class"
    names = [
        item if isinstance(item, str) else short_name(target.teacher.class_names[item])
        for item in wanted
    ]
    provenance = samplers.provenance(target, spec.sampler, protocol)
    fitting = len(pixels) if strip else fitting_columns(len(pixels), pixels.shape[1])
    columns = spec.columns or fitting
    large = png.grid(png.enlarge(pixels, spec.pixels), columns, gap=4)
    about = {f"dimo.{kind}": ", ".join(dict.fromkeys(names))}
    png.save_png(large, grid_file, {**provenance, **about})
    files = [str(grid_file)]
    if folder is not None:
        for index, (picture, name) in enumerate(zip(pixels, names, strict=True)):
            path = folder / f"{index:05d}.png"
            one = {**provenance, f"dimo.{kind}": name, "dimo.index": str(index)}
            png.save_png(png.enlarge(picture[None], spec.pixels)[0], path, one)
            files.append(str(path))
    document: dict[str, Any] = {
        "images": len(names),
        "files": files,
        "prompts" if target.teacher.takes_prompts else "classes": names,
        "seconds": round(seconds, 4),
        "seed": spec.sampler.seed,
        "sampler": protocol,
    }
    speed = f"{len(names)} images in {seconds:.2f} s"
    shown = []
    if out.data.is_terminal:
        shown = terminal.shown(pixels[:SHOWN], columns, out.data.width)
    out.result(document, Group(*shown, Text(f"{speed}, saved to {grid_file}")))


def started_from(target: Target, spec: SampleSpec) -> tuple[Target, dict[str, Any]]:
    """The target, started from the image of `--init` if there is one."""
    from dimo_cli.sampling.interpolating import start_from_file

    return start_from_file(target, spec.init) if spec.init else (target, {})


def fitting_columns(count: int, side: int) -> int:
    """Ten small images in a row; large ones in a square."""
    return 10 if side < 128 else math.ceil(math.sqrt(count))


def chosen_conditions(teacher: Teacher, spec: SampleSpec) -> list[int] | list[str]:
    """The class or prompt of each image: the chosen ones in turn, or all classes."""
    from dimo_cli.errors import SpecError
    from dimo_cli.teachers.classes import find_class

    if teacher.takes_prompts:
        if not spec.prompts:
            raise SpecError(f"`{teacher.name}` draws from prompts.", 'Add `--prompt "..."`.')
        return [spec.prompts[index % len(spec.prompts)] for index in range(spec.count)]
    if spec.prompts:
        raise SpecError(f"`{teacher.name}` takes classes, not prompts.", "Use `--class`.")
    chosen = [find_class(word, teacher) for word in spec.classes]
    chosen = chosen or list(range(len(teacher.class_names)))
    return [chosen[index % len(chosen)] for index in range(spec.count)]
