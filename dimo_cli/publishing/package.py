"""A student made ready to be published: loaded again, sampled, described, and laid out as files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dimo_cli.cards.card import student_card
from dimo_cli.cards.facts import CardFacts, Measured
from dimo_cli.cards.licenses import license_to_publish
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.publishing import measured
from dimo_cli.publishing.contents import (
    carried,
    check_weights,
    public_adapter_config,
    public_manifest,
    without_folders,
)
from dimo_cli.publishing.preview import preview_of
from dimo_cli.publishing.upload import Upload
from dimo_cli.run_folder.effort import Effort, effort_of
from dimo_cli.run_folder.nats import teacher_kl_of
from dimo_cli.sampling.samplers import draw_images
from dimo_cli.specs.manifest import ADAPTER_CONFIG, CARD, MANIFEST, PREVIEW
from dimo_cli.specs.push import PushSpec
from dimo_cli.specs.resolve import load_yaml
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.checkpoints import write_checkpoint
from dimo_cli.students.folder import describe_student, example_for, find_student, load_student
from dimo_cli.students.names import at_checkpoint
from dimo_cli.students.published import builtin_or, hub_id
from dimo_cli.students.student import LoadOptions, Student
from dimo_cli.students.target import Target


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
    texts = {CARD: card, MANIFEST: public_manifest(student.manifest)}
    if student.manifest.lora is not None:
        texts[ADAPTER_CONFIG] = public_adapter_config(student)
    for name, text in texts.items():
        (workplace / name).write_text(text, encoding="utf-8")
    weights = student.manifest.weights_file
    check_weights(folder / weights)
    places = {
        **{name: workplace / name for name in texts},
        weights: folder / weights,
        PREVIEW: preview_of(student, folder, workplace, options),
    }
    files = [
        Upload(name, path, path.stat().st_size, file_sha256(path), carried(path))
        for name, path in places.items()
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
    """Refuse a student that draws no image, before anything is written."""
    target = Target(student.teacher, student)
    draw_images(target, repeated(example_for(student.teacher), 1), SamplerSpec())


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
        measured=tuple({number.title: number for number in map(public, numbers)}.values()),
        rows=tuple(rows),
        teacher_kl=teacher_kl_of(run) if run and is_final else None,
        spec_yaml=public_settings(run / "run.yaml") if run else None,
        effort=known_effort(spec, run),
        footprint=spec.footprint,
    )


def public(number: Measured) -> Measured:
    """A number whose protocol names no folder of this machine."""
    return replace(number, protocol=without_folders(dict(number.protocol)))


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


def package_document(package: Package) -> dict[str, Any]:
    """What is to be pushed, for machines."""
    return {
        "student": package.student.manifest.weights_sha256,
        "license": package.facts.license.name or package.facts.license.id,
        "files": [
            {
                "path": file.name,
                "bytes": file.size,
                "sha256": file.sha256,
                "carries": list(file.carries),
            }
            for file in package.files
        ],
        "metrics": {number.title: number.value for number in package.facts.measured},
        "emissions_grams": package.facts.emissions,
    }
