"""The kinds of folders that dimo writes, and what in each of them can be read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from dimo_cli.checking.files import Check, wrong_blob, wrong_hash, wrong_weights
from dimo_cli.data.shards import INDEX, is_empty, mismatch, read_index, read_shard
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.reading import MOST_DOCUMENT, read_bytes
from dimo_cli.files.untrusted import parse_json
from dimo_cli.hub.access import dimo_cache, download_cache
from dimo_cli.run_folder.checkpoints import DamagedCheckpoint, read_contents
from dimo_cli.run_folder.identity import check_owner, identity_of
from dimo_cli.run_folder.naming import CHECKPOINTS, CONTENTS, steps_in
from dimo_cli.run_folder.snapshots import LIST, SNAPSHOTS, read_list
from dimo_cli.run_folder.state import is_refinement
from dimo_cli.run_folder.verifying import check_file
from dimo_cli.specs.checkpoint import FileFacts, Owner
from dimo_cli.specs.data import Recipe, ShardEntry
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import MANIFEST, WEIGHTS
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students.folder import read_manifest
from dimo_cli.students.names import at_checkpoint
from dimo_cli.students.published import builtin_or

REPOSITORIES = ("models--*", "datasets--*")  # folders of the Hub's cache


@dataclass(frozen=True)
class Contained:
    """What a folder is, and all that can be read again in it."""

    kind: str
    checks: list[Check]


def what_is_in(target: str) -> Contained:
    """Find out what a path holds."""
    found = at_checkpoint(target)
    path = found.folder if found else Path(builtin_or(target)).expanduser()
    if not path.exists():
        raise MissingError(
            f"`{path}` does not exist.",
            "Give the folder of a run, of a student, of encoded images, or a cache of weights.",
        )
    for kind, is_it, checks in KINDS:
        if path.is_dir() and is_it(path):
            return Contained(kind, list(checks(path)))
    raise SpecError(
        f"`{path}` is nothing whose hashes dimo knows.",
        "Give the folder of a run, of a student, of encoded images, or a cache of weights "
        f"(`{download_cache()}`, `{dimo_cache()}`).",
    )


def run_checks(run: Path) -> Iterator[Check]:
    """The spec, every checkpoint and snapshot, and the students of a run."""
    yield Check("run.yaml", run / "run.yaml", partial(wrong_spec, run))
    root, owner = run / CHECKPOINTS, Owner(run=identity_of(run))
    for step in steps_in(root):
        yield from checkpoint_checks(root / f"step-{step}", f"{CHECKPOINTS}/step-{step}/", owner)
    yield from snapshot_checks(run)
    for folder in (run / "student", *sorted(run.glob("student-ema-*"))):
        if folder.is_dir():
            yield from student_checks(folder, f"{folder.name}/")


def snapshot_checks(run: Path) -> Iterator[Check]:
    """The list of a run's snapshots, and every file on it."""
    root = run / SNAPSHOTS
    if not root.is_dir():
        return
    yield Check(f"{SNAPSHOTS}/{LIST}", root / LIST, partial(wrong_list, run))
    try:
        files = read_list(run).files
    except DimoError:
        files = {}
    for file, facts in files.items():
        yield Check(f"{SNAPSHOTS}/{file}", root / file, partial(wrong_file, root, file, facts))


def wrong_list(run: Path) -> str | None:
    """Whether the list of snapshots is of its run, and lists every one."""
    listed = read_list(run)
    if listed.run != identity_of(run):
        return "is of another run"
    known = {path.name for path in (run / SNAPSHOTS).glob("step-*.safetensors")}
    unlisted = sorted(known - listed.files.keys())
    return f"does not list {', '.join(unlisted)}" if unlisted else None


def wrong_spec(run: Path) -> str | None:
    """Whether run.yaml is a spec."""
    model = RefineSpec if is_refinement(run) else DistillSpec
    resolve_spec(model, file=run / "run.yaml", environment={})
    return None


def checkpoint_checks(folder: Path, name: str = "", owner: Owner | None = None) -> Iterator[Check]:
    """A checkpoint's list of contents, and every file on it."""
    yield Check(f"{name}{CONTENTS}", folder / CONTENTS, partial(wrong_contents, folder, owner))
    try:
        files = read_contents(folder).files
    except DamagedCheckpoint:
        files = {}
    for file, facts in files.items():
        yield Check(f"{name}{file}", folder / file, partial(wrong_file, folder, file, facts))


def wrong_contents(folder: Path, owner: Owner | None) -> str | None:
    """Whether a checkpoint is of its run, and holds nothing but what is on its list."""
    try:
        contents = read_contents(folder)
    except DamagedCheckpoint as problem:
        return str(problem)
    if owner is not None:
        check_owner(folder, contents, owner)
    names = {path.name for path in folder.iterdir()} - {CONTENTS}
    unlisted = sorted(names - contents.files.keys())
    return f"does not list {', '.join(unlisted)}" if unlisted else None


def wrong_file(folder: Path, name: str, facts: FileFacts) -> str | None:
    """Whether a file of a checkpoint is as it was written, and finite if it holds weights."""
    try:
        check_file(folder, name, facts)
    except DamagedCheckpoint as problem:
        return str(problem).removeprefix(f"{name} ")
    return wrong_weights(folder / name) if name.endswith(".safetensors") else None


def student_checks(folder: Path, name: str = "") -> Iterator[Check]:
    """The manifest of a student, and the weights that it has the hash of."""
    yield Check(f"{name}{MANIFEST}", folder / MANIFEST, partial(wrong_manifest, folder))
    weights = weights_of(folder)
    yield Check(f"{name}{weights.name}", weights, partial(wrong_student, folder, weights))


def weights_of(folder: Path) -> Path:
    """The file of a student's weights; that of most, where no manifest says which it is."""
    try:
        return folder / read_manifest(folder / MANIFEST).weights_file
    except (DimoError, OSError):
        return folder / WEIGHTS


def wrong_manifest(folder: Path) -> str | None:
    """Whether a manifest is one."""
    if not (folder / MANIFEST).is_file():
        return "is missing"
    read_manifest(folder / MANIFEST)
    return None


def wrong_student(folder: Path, weights: Path) -> str | None:
    """Whether weights are those of their manifest, and finite."""
    try:
        sha256 = read_manifest(folder / MANIFEST).weights_sha256
    except (DimoError, OSError):
        return "has no manifest to be compared with"
    return wrong_hash(weights, sha256) or wrong_weights(weights)


def shard_checks(folder: Path) -> Iterator[Check]:
    """The index of encoded images, and every shard on it."""
    yield Check(INDEX, folder / INDEX, partial(wrong_index, folder))
    try:
        index = read_index(folder)
    except (DimoError, OSError):
        return
    for entry in index.shards:
        checked = partial(wrong_shard, folder, entry, index.recipe)
        yield Check(entry.file, folder / entry.file, checked)


def wrong_index(folder: Path) -> str | None:
    """Whether the index is whole, and lists every shard that has an image."""
    listed = {entry.file for entry in read_index(folder).shards}
    others = [path for path in folder.glob("shard-*.safetensors") if path.name not in listed]
    unlisted = sorted(path.name for path in others if not is_empty(path))
    return f"does not list {', '.join(unlisted)}" if unlisted else None


def wrong_shard(folder: Path, entry: ShardEntry, recipe: Recipe) -> str | None:
    """Whether a shard is as it was written, and fits the recipe with its labels or captions."""
    path = folder / entry.file
    for file, digest in ((path, entry.sha256), (path.with_suffix(".json"), entry.captions_sha256)):
        if digest is not None and (problem := wrong_hash(file, digest)):
            return problem
    try:
        tokens, condition = read_shard(path, recipe.condition == "captions")
        return mismatch(tokens, condition, entry.images, recipe) or None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return f"or its {recipe.condition} are not what the index says"


def cache_checks(folder: Path) -> Iterator[Check]:
    """Downloads under the hash that they are called by, and what dimo made of them."""
    for root in (folder, folder / "hub", folder / "datasets"):
        for pattern in REPOSITORIES:
            for repository in sorted(root.glob(pattern)):
                yield from repository_checks(repository, folder)
    if is_repository(folder):
        yield from repository_checks(folder, folder)
    for root in (folder, folder / "dimo"):
        if not is_own_cache(root):
            continue
        for path in sorted(root.rglob("*.safetensors")):
            problem = partial(wrong_weights, path, may_be_infinite=True)
            yield Check(path.relative_to(folder).as_posix(), path, problem)
        for path in sorted(root.rglob("*.json")):
            yield Check(path.relative_to(folder).as_posix(), path, partial(wrong_json, path))


def repository_checks(repository: Path, root: Path) -> Iterator[Check]:
    """The files of one repository, by the names under which they are used."""
    used: dict[Path, str] = {}
    for link in sorted(repository.glob("snapshots/**/*")):
        if link.is_symlink():
            target = link.resolve()
            used.setdefault(target, link.relative_to(root).as_posix())
    for blob in sorted((repository / "blobs").glob("*")):
        if not blob.name.endswith((".incomplete", ".lock")):
            name = used.get(blob.resolve(), blob.relative_to(root).as_posix())
            yield Check(name, blob, partial(wrong_blob, blob))


def wrong_json(path: Path) -> str | None:
    """Whether a file is JSON."""
    try:
        parse_json(read_bytes(path, MOST_DOCUMENT))
    except ValueError:
        return "cannot be read"
    return None


def is_repository(folder: Path) -> bool:
    """Whether a folder is a repository of the Hub's cache."""
    return any(folder.match(pattern) for pattern in REPOSITORIES)


def is_own_cache(folder: Path) -> bool:
    """Whether a folder is the one where dimo keeps what it made of downloads, or a part of it."""
    is_one = folder.name == "dimo" and (folder / "weights").is_dir()
    return folder.is_dir() and (is_one or folder.resolve().is_relative_to(dimo_cache().resolve()))


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache: the Hub's, dimo's, or the home of both."""
    inside = [folder, folder / "hub"]
    has_any = any(True for root in inside for p in REPOSITORIES for _ in root.glob(p))
    return is_repository(folder) or has_any or any(map(is_own_cache, (folder, folder / "dimo")))


def is_shards(folder: Path) -> bool:
    """Whether a folder holds encoded images, finished or not."""
    return (folder / INDEX).is_file() or any(folder.glob("shard-*.safetensors"))


def has(name: str) -> Callable[[Path], bool]:
    """Whether a file is in a folder."""
    return lambda folder: (folder / name).is_file()


KINDS: tuple[
    tuple[str, Callable[[Path], bool], Callable[[Path], Iterator[Check]]],
    ...,
] = (
    ("run", has("run.yaml"), run_checks),
    ("checkpoint", has(CONTENTS), checkpoint_checks),
    ("student", has(MANIFEST), student_checks),
    ("encoded images", is_shards, shard_checks),
    ("cache of weights", is_cache, cache_checks),
)
