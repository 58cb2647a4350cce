"""A student made ready to be published: loaded again, sampled, described, and laid out as files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
import yaml

from dimo_cli import __version__
from dimo_cli.cards.card import student_card
from dimo_cli.cards.facts import CardFacts
from dimo_cli.cards.licenses import license_to_publish
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.pictures import open_picture
from dimo_cli.files.png import enlarge, save_png
from dimo_cli.files.writing import file_sha256
from dimo_cli.publishing import measured
from dimo_cli.publishing.upload import Upload
from dimo_cli.run_folder.effort import Effort, effort_of
from dimo_cli.sampling.previews import condition_names, preview_conditions, preview_grid
from dimo_cli.sampling.samplers import draw_images
from dimo_cli.specs.manifest import CARD, MANIFEST, PREVIEW, WEIGHTS
from dimo_cli.specs.push import PushSpec
from dimo_cli.specs.resolve import load_yaml
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.checkpoints import write_checkpoint
from dimo_cli.students.folder import describe_student, example_for, find_student, load_student
from dimo_cli.students.names import at_checkpoint
from dimo_cli.students.published import builtin_or, hub_id
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target
from dimo_cli.teachers.conditioning import PromptConditioner

PREVIEW_IMAGES, SLOW_PREVIEW_IMAGES = 20, 4


@dataclass(frozen=True)
class Package:
    """A student ready to be published."""

    student: Student
    facts: CardFacts
    card: str
    files: tuple[Upload, ...]

    @property
    def title(self) -> str:
        """What a commit or a pull request with it is called."""
        student = self.student
        return f"One-step student {student.short_id} of {student.manifest.teacher.name}"


def prepare(spec: PushSpec, workplace: Path, options: LoadOptions) -> Package:
    """Check a student in every way and write its card and preview into `workplace`.

    The student's folder is read only.
    """
    folder, run = locate(spec.target, workplace, options)
    student = load_student(folder, options)
    check_draws(student)
    facts = facts_to_publish(spec, student, run)
    card = student_card(facts)
    (workplace / CARD).write_text(card, encoding="utf-8")
    places = {
        CARD: workplace / CARD,
        MANIFEST: folder / MANIFEST,
        WEIGHTS: folder / WEIGHTS,
        PREVIEW: preview_of(student, folder, workplace, options),
    }
    files = [
        Upload(name, path, path.stat().st_size, file_sha256(path)) for name, path in places.items()
    ]
    return Package(student, facts, card, tuple(files))


def locate(target: str, workplace: Path, options: LoadOptions) -> tuple[Path, Path | None]:
    """The student's folder, and that of its run if the run was named.

    A checkpoint of a run is written into `workplace` as the student that it is.
    """
    if found := at_checkpoint(target):
        write_checkpoint(found, workplace / "student", options)
        return workplace / "student", found.run
    path = Path(builtin_or(target)).expanduser()
    if hub_id(target):
        raise MissingError(
            f"There is no folder `{target}`.",
            "A push takes a run or student folder of this machine; a student that is on the Hub "
            "already can be duplicated there.",
        )
    return find_student(path), path if (path / "run.yaml").is_file() else None


def check_draws(student: Student) -> None:
    """Refuse a student whose weights are not finite, or that draws no image."""
    bad = [name for name, w in student.backbone.named_parameters() if not torch.isfinite(w).all()]
    if bad:
        raise SpecError(
            f"The weights of this student are not finite: {bad[0]} and {len(bad) - 1} more.",
            "Its training has diverged: distill again with lower learning rates.",
        )
    example = example_for(student.teacher)
    target = Target(student.teacher, student)
    images, _ = draw_images(target, repeated(example, 1), SamplerSpec())
    if not torch.isfinite(images).all():
        raise SpecError(f"This student draws no image of {example!r}: its pixels are not finite.")


def repeated(example: str | int, count: int) -> list[int] | list[str]:
    """The same prompt or class for some images."""
    if isinstance(example, str):
        return [example] * count
    return [example] * count


def facts_to_publish(spec: PushSpec, student: Student, run: Path | None) -> CardFacts:
    """All that its card will say."""
    manifest, teacher = student.manifest, student.teacher
    weights = manifest.weights_sha256
    is_final = at_checkpoint(spec.target) is None  # what a run measured is of its final student
    numbers, rows = measured.of_run(run, weights) if run and is_final else ([], [])
    numbers += measured.of_evaluations(spec.metrics, weights)
    return replace(
        describe_student(student),
        repository=spec.repository,
        license=license_to_publish(
            teacher.name, teacher.license, spec.license_name, spec.license_link
        ),
        measured=tuple({number.title: number for number in numbers}.values()),
        rows=tuple(rows),
        spec_yaml=public_settings(run / "run.yaml") if run else None,
        effort=known_effort(spec, run),
        footprint=spec.footprint,
    )


def known_effort(spec: PushSpec, run: Path | None) -> Effort | None:
    """Hours and hardware: what the user says, else what the run recorded."""
    said = spec.footprint
    recorded = effort_of(run) if run else None
    if said.hours is None:
        if recorded is None and (said.watts is not None or said.hardware is not None):
            raise SpecError(
                "Nothing says how long this student was trained.",
                "Add `--hours`, or push its run folder if that recorded them.",
            )
        return replace(recorded, hardware=said.hardware or recorded.hardware) if recorded else None
    return Effort(said.hours, said.hardware or (recorded.hardware if recorded else None))


def public_settings(path: Path) -> str:
    """The spec of a run as YAML, without the folders of the machine that it ran on."""
    try:
        settings = load_yaml(path).values
    except SpecError as error:
        raise SpecError(
            f"`{path}` is damaged: it is no spec. {error.message}",
            "Push the `student` folder alone.",
        ) from None
    return yaml.safe_dump(without_folders(settings), sort_keys=False, allow_unicode=True)


def without_folders(value: Any) -> Any:
    """The same settings, with the last part alone of paths that lead through this machine."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute() or value.startswith(("~", ".")):
                return path.name
    return value


def preview_of(student: Student, folder: Path, workplace: Path, options: LoadOptions) -> Path:
    """The student's own preview; drawn anew where it is missing or shows another student."""
    path = folder / PREVIEW
    if path.is_file() and shows(path) == student.short_id:
        return path
    options.say(f"`{path}` does not show this student: a preview is drawn.")
    draw_preview(student, workplace / PREVIEW)
    return workplace / PREVIEW


def draw_preview(student: Student, path: Path) -> None:
    """A grid of samples that says which student drew them, and of what."""
    teacher = student.teacher
    if isinstance(teacher.conditioner, PromptConditioner) and not teacher.conditioner.dataset:
        wanted = repeated(example_for(teacher), SLOW_PREVIEW_IMAGES)
    else:
        wanted = preview_conditions(teacher, PREVIEW_IMAGES)
    about = {
        "dimo.version": __version__,
        "dimo.conditions": json.dumps(condition_names(teacher, wanted)),
        "dimo.student": student.short_id,
    }
    save_png(enlarge(preview_grid(student, wanted), 320), path, about)


def shows(preview: Path) -> str | None:
    """Which student a preview is of, as its text chunk says."""
    try:
        with open_picture(preview) as picture:
            return picture.info.get("dimo.student")
    except Exception:  # of whichever decoder: it shows no student
        return None


def package_document(package: Package) -> dict[str, Any]:
    """What is to be pushed, for machines."""
    return {
        "student": package.student.manifest.weights_sha256,
        "license": package.facts.license.name or package.facts.license.id,
        "files": [
            {"path": file.name, "bytes": file.size, "sha256": file.sha256} for file in package.files
        ],
        "metrics": {number.title: number.value for number in package.facts.measured},
        "emissions_grams": package.facts.emissions,
    }
