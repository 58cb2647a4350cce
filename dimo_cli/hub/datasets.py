"""Datasets of the Hub by a short name: which of their files are meant, at which commit.

    hub:OWNER/NAME[/PATH][:COLUMN][@REVISION]

PATH is a file, a folder or a part such as data/train; COLUMN is one of the table's; REVISION is a
branch, a tag or a commit. What is meant is settled once, and named by its commit from then on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

from dimo_cli.errors import MissingError, SpecError, did_you_mean
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.tables import SUFFIXES, needs_pyarrow, no_pyarrow
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import write_whole_text
from dimo_cli.hub.access import ACCESS, dimo_cache, endpoint, is_offline
from dimo_cli.hub.network import answers
from dimo_cli.hub.problems import Unreachable, explain
from dimo_cli.hub.published import HubFile
from dimo_cli.hub.store import HubStore, cached_path
from dimo_cli.hub.transfer import bounded

PREFIX, FORM = "hub:", "hub:OWNER/NAME[/PATH][:COLUMN][@REVISION]"
REFERENCE = re.compile(
    r"hub:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?P<path>/[^:@]+)?(:(?P<column>[^@]+))?"
    r"(@(?P<revision>[\w-][\w./-]*))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")
# What tells the files of one part from each other: -00000-of-00003, with a hash behind it or not.
SHARD = re.compile(r"[-_.]?\d+-of-\d+(-[0-9a-f]{8,})?$|^\d+$")
CONVERTED = "refs/convert/parquet"
MOST_CHOICES = 12


@dataclass(frozen=True, slots=True)
class Reference:
    """A dataset as somebody names it."""

    repo: str
    path: str = ""
    column: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        column = f":{self.column}" if self.column else ""
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return f"{PREFIX}{self.repo}{path}{column}{revision}"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A table of a dataset."""

    path: str
    size: int
    sha256: str | None

    @property
    def part(self) -> str:
        """The part of the dataset that it is a piece of, such as data/train."""
        folder, _, name = self.path.rpartition("/")
        return f"{folder}/{SHARD.sub('', name.rpartition('.')[0])}".strip("/")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files that a reference means; its revision is a commit."""

    reference: Reference
    files: tuple[DataFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    def hub_file(self, file: DataFile) -> HubFile:
        """A file as the store knows it."""
        commit = self.reference.revision
        return HubFile(self.reference.repo, file.path, commit, size=file.size, repo_type="dataset")

    def is_here(self) -> bool:
        """Whether every file is in the cache."""
        return all(cached_path(self.hub_file(file)) for file in self.files)


def is_reference(text: str | None) -> TypeGuard[str]:
    """Whether a text names a dataset of the Hub."""
    return text is not None and text.startswith(PREFIX)


def parsed(text: str) -> Reference:
    """The parts of a reference; a text of another form is refused."""
    match = REFERENCE.fullmatch(text)
    path = (match["path"] or "").strip("/") if match else ""
    if match is None or ".." in path.split("/") or ".." in (match["revision"] or ""):
        raise SpecError(
            f"`{text}` does not name a dataset of the Hub: the form is {FORM}.",
            "For example `hub:owner/name:prompt`.",
        )
    return Reference(match["repo"], path, match["column"] or "", match["revision"] or "main")


def find_dataset(reference: Reference) -> Dataset:
    """The files that a reference means, at one commit; nothing of them is downloaded."""
    commit, files = listing(reference)
    pinned = replace(reference, revision=commit)
    chosen = tuple(chosen_files(reference, files))
    if needs_pyarrow([file.path for file in chosen]):
        raise no_pyarrow(f"{reference.repo}/{chosen[0].path}")
    return Dataset(pinned, chosen)


def chosen_files(reference: Reference, files: list[DataFile]) -> list[DataFile]:
    """The files of the one part that is meant; several are refused with their names."""
    wanted, repo = reference.path, reference.repo
    if not files:
        raise SpecError(
            f"`{repo}` has no {' or '.join(SUFFIXES)} files at revision `{reference.revision}`.",
            f"Of many datasets the Hub keeps a copy as Parquet: `{PREFIX}{repo}@{CONVERTED}`."
            if reference.revision != CONVERTED
            else "Choose another dataset, or download this one and make a text file of it.",
        )
    if "*" in wanted:
        matching = [file for file in files if fnmatchcase(file.path, wanted)]
    else:
        matching = [file for file in files if is_below(file, wanted)]
    if not matching:
        raise SpecError(f"`{repo}` has no table `{wanted}`.", f"It has {listed(parts_of(files))}.")
    parts = parts_of(matching)
    if len(parts) > 1 and "*" not in wanted:
        example = replace(reference, path=parts[0])
        raise SpecError(
            f"`{repo}` has several parts{f' in `{wanted}`' if wanted else ''}: {listed(parts)}.",
            f"Say which one: `{example}`.",
        )
    return matching


def is_below(file: DataFile, wanted: str) -> bool:
    """Whether a file is the one that is wanted, or of that part or folder; "" is all."""
    names = (file.path, file.part, f"{file.part}{Path(file.path).suffix}")
    return not wanted or wanted in names or file.path.startswith(f"{wanted}/")


def parts_of(files: Iterable[DataFile]) -> list[str]:
    """The parts that files are of; the same in two formats is two parts."""
    kinds = sorted({(file.part, Path(file.path).suffix) for file in files})
    parts = [part for part, _ in kinds]
    return [f"{part}{kind}" if parts.count(part) > 1 or not part else part for part, kind in kinds]


def listed(names: list[str]) -> str:
    """Names for a sentence, of many the first."""
    more = f" and {len(names) - MOST_CHOICES} more" if len(names) > MOST_CHOICES else ""
    return ", ".join(f"`{name}`" for name in names[:MOST_CHOICES]) + more


def folder_of(repo: str) -> Path:
    """Where dimo keeps what it knows of a dataset, and what it made of it."""
    return dimo_cache() / "datasets" / repo.replace("/", "--")


def listing(reference: Reference) -> tuple[str, list[DataFile]]:
    """The commit that a revision stands for and the tables at it, as the Hub or a memory has it."""
    repo, revision = reference.repo, reference.revision
    memory = folder_of(repo) / f"{quote(revision, safe='')}.json"
    known = remembered(memory)
    if known is not None and (COMMIT.fullmatch(revision) or is_offline()):
        return known
    about = HubFile(repo, "*", revision, repo_type="dataset")
    if is_offline() or not answers(endpoint()):
        if known is None:
            raise not_here(about) if is_offline() else not_reached(about)
        return known
    found = asked(about)
    for name in {revision, found[0]}:
        remember(memory.with_name(f"{quote(name, safe='')}.json"), *found)
    return found


def asked(about: HubFile) -> tuple[str, list[DataFile]]:
    """What the Hub says of a dataset."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), token=ACCESS.get().token)

    def ask() -> Any:
        return api.dataset_info(about.repo, revision=about.revision, files_metadata=True)

    try:
        found = bounded(about, ask)
        rows = [
            (str(one.rfilename), int(one.size or 0), one.lfs.sha256 if one.lfs else None)
            for one in found.siblings or ()
        ]
        files = [DataFile(*row) for row in rows]
        commit = str(found.sha)
    except MissingError:
        raise
    except Exception as error:  # the Hub's, or of whichever HTTP library is below
        raise explain(error, about) from error
    if not COMMIT.fullmatch(commit):
        raise MissingError(f"{endpoint()} names no commit of `{about.repo}`.", "Try again later.")
    return commit, sorted(filter(is_table, files), key=lambda file: file.path)


def is_table(file: DataFile) -> bool:
    """Whether a file of a repository is a table, under a name that leads nowhere else."""
    parts = file.path.split("/")
    is_plain = file.path.isprintable() and not {"", ".", ".."} & set(parts)
    return is_plain and file.path.endswith(SUFFIXES) and not re.search("[:@*]", file.path)


def remembered(memory: Path) -> tuple[str, list[DataFile]] | None:
    """A listing that was kept; None where there is none, or a damaged one."""
    try:
        content = parse_json(read_text(memory, MOST_DOCUMENT))
        commit, files = str(content["commit"]), [DataFile(*row) for row in content["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return commit, files


def remember(memory: Path, commit: str, files: list[DataFile]) -> None:
    """Keep a listing; where that cannot be, it is asked for again."""
    rows = [[file.path, file.size, file.sha256] for file in files]
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(memory, json.dumps({"commit": commit, "files": rows}))
    except OSError:
        return


def fetched(dataset: Dataset, file: DataFile, say: Callable[[str], None]) -> Path:
    """A file of a dataset on this machine, downloaded if need be, with the hash that was listed."""
    located = HubStore(say=say).locate(dataset.hub_file(file))
    if file.sha256 and located.sha256 and located.sha256 != file.sha256:
        raise MissingError(
            f"`{dataset.reference.repo}/{file.path}` is not the file that {endpoint()} listed: its "
            f"hash starts with {located.sha256[:12]}, not {file.sha256[:12]}.",
            "Use the Hub itself or another mirror: change HF_ENDPOINT.",
        )
    return located.path


def choose_column(
    reference: Reference, kinds: dict[str, str], wanted: tuple[str, ...], usual: tuple[str, ...]
) -> str:
    """The column that is named, or the one that can only be meant; its values are of a kind."""
    what, repo = " or ".join(NAMES[kind] for kind in wanted), reference.repo
    fitting = [name for name, kind in kinds.items() if kind in wanted]
    if not reference.column:
        likely = [column for column in usual if column in fitting] or fitting
        if len(likely) == 1:
            return likely[0]
        if not likely:
            raise SpecError(
                f"`{repo}` has no column of {what}: it has {described(kinds)}.",
                "Choose another dataset or another part of it.",
            )
        example = replace(reference, column=likely[0])
        raise SpecError(
            f"`{repo}` has several columns of {what}: {listed(likely)}.",
            f"Say which one: `{example}`.",
        )
    if reference.column not in fitting:
        problem = (
            f"The column `{reference.column}` of `{repo}` holds no {what}"
            if reference.column in kinds
            else f"`{repo}` has no column `{reference.column}`"
        )
        hint = did_you_mean(reference.column, fitting) if fitting else "Choose another dataset."
        raise SpecError(f"{problem}: it has {described(kinds)}.", hint)
    return reference.column


NAMES = {"text": "texts", "picture": "pictures", "number": "numbers", "lists": "lists"}


def described(kinds: dict[str, str]) -> str:
    """The columns of a table with what they hold."""
    names = [f"`{name}` ({NAMES.get(kind, 'other values')})" for name, kind in kinds.items()]
    more = f" and {len(names) - MOST_CHOICES} more" if len(names) > MOST_CHOICES else ""
    return ", ".join(names[:MOST_CHOICES]) + more


def not_reached(about: HubFile) -> MissingError:
    """The sentence for a dataset that was never looked up, without a network."""
    return Unreachable(
        f"Cannot reach {endpoint()} for the dataset `{about.repo}`.",
        "Check network and proxy, or set HF_ENDPOINT to a mirror.",
    )


def not_here(about: HubFile) -> MissingError:
    """The sentence for a dataset that was never looked up, off the network."""
    return MissingError(
        f"The dataset `{about.repo}` at revision `{about.revision}` was never looked up here, and "
        "HF_HUB_OFFLINE is set.",
        "Run the same command once while online.",
    )
