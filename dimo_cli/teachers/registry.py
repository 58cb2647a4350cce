"""Which teachers there are. The only place that maps a name to a family's file."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.hub.store import HubStore
from dimo_cli.plugins import register_plugins
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers import digits, emoji, shapes
from dimo_cli.teachers.blueprint import Blueprint, ReadConfig, assemble, skeleton
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.families import FAMILIES
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.stored import store

# Teachers that bring their weights along: those inside the package, and users' own.
EMBEDDED: dict[str, Callable[[], Teacher]] = {
    "digits": digits.load_teacher,
    "shapes": shapes.load_teacher,
    "emoji": emoji.load_teacher,
}


def register_teacher(name: str, load: Callable[[], Teacher]) -> None:
    """Add a teacher of one's own, to be used by its name wherever dimo's are."""
    if name in teacher_names():
        raise SpecError(f"There is a teacher `{name}` already.", "Choose another name.")
    EMBEDDED[name] = load


def load_plugins() -> None:
    """Register the teachers of installed packages (entry point group `dimo.teachers`)."""
    register_plugins("dimo.teachers", register_teacher, known=teacher_names())


def teacher_names() -> list[str]:
    """All known teachers."""
    return [*EMBEDDED, *FAMILIES]


def check_teacher(name: str) -> None:
    """Refuse a teacher that does not exist."""
    if name not in teacher_names():
        load_plugins()
    if name not in teacher_names():
        raise SpecError(
            f"`teacher.name` is {name!r}, which is not a known teacher.",
            did_you_mean(name, teacher_names()),
        )


def blueprint_of(source: TeacherSource, read_config: ReadConfig | None = None) -> Blueprint:
    """The blueprint of a published teacher; `read_config` lets it read its repository's configs."""
    module = import_module(f"dimo_cli.teachers.{FAMILIES[source.name]}")
    blueprint: Blueprint = module.blueprint(source.name, source.architecture, read_config)
    return blueprint


class ManifestSource(TeacherSource):
    """A teacher as a student's manifest names it: a stranger's words, not the user's.

    Its revision says at which commit files are read. Neither that nor its architecture makes a file
    pass for one that dimo knows.
    """


def store_for(
    source: TeacherSource,
    say: Callable[[str], None] = lambda line: None,
    commit: str | None = None,
) -> HubStore:
    """Where a teacher's files come from; with `commit` at that one, wherever a branch is by now."""
    store = store_of(source, say)
    if commit is not None:
        store.commits["model", blueprint_of(source).backbone.files[0].repo] = commit
    return store


def store_of(source: TeacherSource, say: Callable[[str], None]) -> HubStore:
    """Where a teacher's files come from, as its source alone says."""
    repository = blueprint_of(source).backbone.files[0].repo
    folder = Path(source.local_dir) if source.local_dir else None
    pinned = {repository: source.revision} if source.revision else {}
    if isinstance(source, ManifestSource):
        return HubStore(folder, say=say, manifest_commits=pinned)
    in_place = folder is not None and source.revision is not None  # all of it is as the user says
    known_hashes = not (source.architecture or in_place)
    return HubStore(folder, pinned, known_hashes, say)


def load_teacher(
    source: TeacherSource | str,
    say: Callable[[str], None] = lambda line: None,
    with_backbone: bool = True,
    commit: str | None = None,
) -> Teacher:
    """Load a teacher with its weights, from the package, a local folder or the Hub.

    Without its backbone (left on the meta device) for a student that brings its own. `commit` is
    the one that a run began with, whose hashes are known or not as the source has it.
    """
    source = TeacherSource(name=source) if isinstance(source, str) else source
    check_teacher(source.name)
    if source.name in EMBEDDED:
        check_embedded(source)
        teacher = EMBEDDED[source.name]()
    else:
        files = store_for(source, say, commit)
        teacher = assemble(blueprint_of(source, files.config), files, with_backbone)
    if with_backbone:
        store(teacher.backbone, source.weights)
    return configured(teacher, source)


def load_whole(
    source: TeacherSource,
    say: Callable[[str], None] = lambda line: None,
    commit: str | None = None,
) -> Teacher:
    """As `load_teacher`, with all digits of its weights: whoever trains stores them in time."""
    return load_teacher(source.model_copy(update={"weights": "fp32"}), say, commit=commit)


def load_skeleton(source: TeacherSource | str) -> Teacher:
    """A teacher without weights, for planning: nothing is downloaded."""
    source = TeacherSource(name=source) if isinstance(source, str) else source
    check_teacher(source.name)
    if source.name in EMBEDDED:
        check_embedded(source)
        return EMBEDDED[source.name]()
    return configured(skeleton(blueprint_of(source)), source)


def check_embedded(source: TeacherSource) -> None:
    """A teacher that brings its weights along takes no settings."""
    for field in ("revision", "local_dir", "architecture", "negative_prompt"):
        if getattr(source, field):
            raise SpecError(
                f"`teacher.{field}` is set, but `{source.name}` brings its weights along.",
                "Leave it out.",
            )


def configured(teacher: Teacher, source: TeacherSource) -> Teacher:
    """Apply what a user says about the condition."""
    if source.negative_prompt is None:
        return teacher
    if not isinstance(teacher.conditioner, PromptConditioner):
        raise SpecError(
            f"`teacher.negative_prompt` is set, but `{source.name}` takes classes.", "Leave it out."
        )
    teacher.conditioner.negative_prompt = source.negative_prompt
    return teacher
