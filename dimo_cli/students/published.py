"""Students on the Hub: those that dimo pushed, and one-step students that others published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dimo_cli.errors import MissingError, NotThere, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.access import Located
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore
from dimo_cli.hub.weights import read_published
from dimo_cli.specs.init import FixedNoise, FixedRatio, InitSpec
from dimo_cli.specs.manifest import MANIFEST, StudentManifest, TeacherFacts, TrainingFacts
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.checkpoints import look_at_checkpoint, open_checkpoint
from dimo_cli.students.folder import (
    BUILTIN,
    find_student,
    guessed,
    load_student,
    read_manifest,
    read_weights,
)
from dimo_cli.students.names import at_checkpoint
from dimo_cli.students.student import LoadOptions, Student, assemble_student
from dimo_cli.teachers.registry import blueprint_of

HUB_ID = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+?)(/(?P<part>[\w-]+))?(@(?P<revision>[\w./-]+))?$")
FILES = (".json", ".yaml", ".yml", ".safetensors", ".bin", ".pt", ".pt2", ".pth", ".png", ".zip")


@dataclass(frozen=True, slots=True)
class ForeignStudent:
    """A student that its authors published in a form of their own."""

    teacher: str
    files: tuple[str, ...]
    takes_prompts: bool
    init: InitSpec


# Sampled as the authors' own sampling scripts do: r_init 0.6, noise 0.1, temperature 1.
AUTHORS_INIT = InitSpec(mask_ratio=FixedRatio(value=0.6), embed_noise=FixedNoise(sigma=0.1))
FOREIGN: Mapping[str, Mapping[str, ForeignStudent]] = {
    "Yuanzhi/DiMO": {
        "maskgit": ForeignStudent("maskgit", ("maskgit/pytorch_model.bin",), False, AUTHORS_INIT),
        "meissonic": ForeignStudent(
            "meissonic",
            (
                "meissonic/transformer/diffusion_pytorch_model.safetensors",
                "meissonic/transformer/diffusion_pytorch_model.bin",
            ),
            True,
            AUTHORS_INIT,
        ),
    }
}


def open_student(
    target: str | Path, options: LoadOptions | None = None, with_prompts: bool | None = None
) -> Student:
    """A student by run folder, student folder or Hub id (`owner/name[/part][@revision]`).

    `RUN@best`, `RUN@last` and `RUN@step-N` are what a run's student was there, finished or not.

    `with_prompts` says whether it is to be asked with prompts or classes, which decides where a
    repository holds a student of either kind.
    """
    options = options or LoadOptions()
    target = builtin_or(target)
    if found := at_checkpoint(target):
        return open_checkpoint(found, options)
    match = hub_id(target)
    if match is None:
        return load_student(Path(target).expanduser(), options)
    repo, store = match["repo"], store_for(match, options)
    if repo in FOREIGN:
        return open_foreign(repo, match["part"], with_prompts, store, options)
    return open_pushed(repo, store, options)


def store_for(match: re.Match[str], options: LoadOptions) -> HubStore:
    """Where the files of a student on the Hub come from; those of others may lie in a folder."""
    repo, revision = match["repo"], match["revision"]
    folder = Path(options.local_dir) if options.local_dir and repo in FOREIGN else None
    return HubStore(folder, {repo: revision} if revision else {}, say=options.say)


def with_commit(target: str, options: LoadOptions) -> str:
    """A Hub id with the commit that it stands for now; any other name as it is."""
    match = hub_id(builtin_or(target))
    if match is None:
        return target
    repo, store = match["repo"], store_for(match, options)
    if repo in FOREIGN:
        _, located = store.first(foreign_weights(repo, foreign_part(repo, match["part"], None)))
    else:
        located = find_pushed(repo, MANIFEST, store)
    return f"{target.partition('@')[0]}@{located.commit}" if located.commit else target


def hub_id(target: str) -> re.Match[str] | None:
    """A target as a Hub id, taken apart; None where it is a path, existing or not.

    Of three parts only those are Hub ids that name one of several students in a repository: all
    that dimo pushes is a repository of its own.
    """
    match = HUB_ID.match(target)
    if match is None or target.startswith((".", "~", "/")) or Path(target).exists():
        return None
    if at_checkpoint(target):
        return None
    if target.lower().endswith(FILES) or (match["part"] and match["repo"] not in FOREIGN):
        return None
    return match


def builtin_or(target: str | Path) -> str:
    """The folder of a built-in student, which goes by its teacher's name; else what was given."""
    name = str(target)
    return str(BUILTIN[name]) if name in BUILTIN and not Path(target).exists() else name


def look_at_student(target: str) -> StudentManifest:
    """A student's manifest alone: nothing else is read or downloaded."""
    target = builtin_or(target)
    if found := at_checkpoint(target):
        return look_at_checkpoint(found)
    match = hub_id(target)
    if match is None:
        return read_manifest(find_student(Path(target).expanduser()) / MANIFEST)
    repo, part = match["repo"], match["part"]
    if repo in FOREIGN:
        return foreign_manifest(repo, foreign_part(repo, part, None), "0" * 64)
    return read_manifest(find_pushed(repo, MANIFEST, store_for(match, LoadOptions())).path)


def open_pushed(repo: str, store: HubStore, options: LoadOptions) -> Student:
    """A student that dimo pushed: the same folder, on the Hub."""
    manifest = read_manifest(find_pushed(repo, MANIFEST, store).path)
    path = find_pushed(repo, manifest.weights_file, store).path
    weights = read_weights(path, manifest.weights_sha256)
    return assemble_student(manifest, weights, f"`{repo}`", options)


def find_pushed(repo: str, name: str, store: HubStore) -> Located:
    """A file of a pushed student."""
    try:
        return store.locate(HubFile(repo, name))
    except NotThere as problem:
        raise MissingError(
            f"`{repo}` is neither a folder here nor a student on the Hub. {problem.message}",
            f"{guessed(repo)}Give a run folder, a student folder or a Hub id; or make a student "
            "with `dimo distill --preset digits`.",
        ) from problem
    except MissingError as problem:
        raise MissingError(
            f"`{repo}` does not exist here. {problem.message}",
            f"{guessed(repo)}{problem.hint or ''}",
        ) from problem


def foreign_source(teacher: str) -> TeacherSource:
    """The teacher of a student that others published."""
    return TeacherSource(name=teacher)


def foreign_part(repo: str, part: str | None, with_prompts: bool | None) -> str:
    """Which of a repository's students is meant."""
    parts = FOREIGN[repo]
    if part is None:
        fitting = [name for name, entry in parts.items() if entry.takes_prompts == with_prompts]
        part = fitting[0] if fitting else next(iter(parts))
    if part not in parts:
        raise SpecError(
            f"`{repo}` has no student `{part}`.",
            f"Known: {', '.join(f'{repo}/{name}' for name in parts)}.",
        )
    return part


def foreign_weights(repo: str, part: str) -> Published:
    """The weights of a student that others published, under the names of its teacher's."""
    entry = FOREIGN[repo][part]
    convert = blueprint_of(foreign_source(entry.teacher)).backbone.convert
    return Published(tuple(HubFile(repo, path) for path in entry.files), convert=convert)


def foreign_manifest(repo: str, part: str, weights_sha256: str) -> StudentManifest:
    """What dimo knows of a student that others published."""
    entry = FOREIGN[repo][part]
    source = foreign_source(entry.teacher)
    blueprint = blueprint_of(source)
    return StudentManifest(
        dimo_version="published by others",
        teacher=TeacherFacts(
            name=entry.teacher,
            family=blueprint.family,
            revision="main",
            license=blueprint.license,
            architecture=source.architecture,
        ),
        init=entry.init,
        training=TrainingFacts(method=f"Di[M]O, published as {repo}/{part}"),
        weights_sha256=weights_sha256,
    )


def open_foreign(
    repo: str,
    part: str | None,
    with_prompts: bool | None,
    store: HubStore,
    options: LoadOptions,
) -> Student:
    """One of the students that others published."""
    part = foreign_part(repo, part, with_prompts)
    published = foreign_weights(repo, part)
    file, located = store.first(published)
    weights = read_published(
        published, file, located, local=store.local_dir is not None, forget=store.forget
    )
    manifest = foreign_manifest(repo, part, located.sha256 or file_sha256(located.path))
    student = assemble_student(manifest, weights, f"`{repo}/{part}`", options)
    facts = manifest.teacher.model_copy(update={"revision": student.teacher.revision})
    return replace(student, manifest=manifest.model_copy(update={"teacher": facts}))
