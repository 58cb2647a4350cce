"""The Hugging Face Hub: find, download and verify published files.

Every failure becomes a sentence with exit code 3, and no failure leaves a damaged file in a cache.
The environment is read at each call: HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_CACHE (where files
go), HF_HUB_OFFLINE (use what is there) and HF_TOKEN mean what they mean to the Hub's own client.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimo_cli.errors import MissingError, NotThere
from dimo_cli.files import file_sha256
from dimo_cli.network import answers
from dimo_cli.teachers.blueprint import HubFile, Published, StateDict, check_sizes

SHA256 = re.compile(r"^[0-9a-f]{64}$")
COMMIT = re.compile(r"snapshots/([0-9a-f]{40})(/|$)")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# What HTTP libraries call a network that is not there.
NETWORK_ERRORS = ("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError")


class Unreachable(MissingError):
    """The Hub does not answer at all."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller in Python asks for instead of the environment."""

    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | None = None


ACCESS: ContextVar[Access] = ContextVar("access", default=Access())  # noqa: B039 - it is frozen


@contextmanager
def hub_access(access: Access) -> Iterator[None]:
    """Until it is left, every download goes by `access`."""
    previous = ACCESS.set(access)
    try:
        yield
    finally:
        ACCESS.reset(previous)


def endpoint() -> str:
    """The Hub, or the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def home() -> Path:
    """The root of all Hugging Face caches."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HOME") or constants.HF_HOME).expanduser()


def download_cache() -> Path:
    """Where downloaded files are kept."""
    named = ACCESS.get().cache_dir or os.environ.get("HF_HUB_CACHE")
    return Path(named).expanduser() if named else home() / "hub"


def dimo_cache() -> Path:
    """Where converted weights and prompt embeddings are kept."""
    return home() / "dimo"


def is_offline() -> bool:
    """Whether `local_files_only` or HF_HUB_OFFLINE asks to stay off the network."""
    named = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return ACCESS.get().local_files_only or named in {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True)
class Located:
    """A file on this machine, the commit it is of, and its hash where that is known."""

    path: Path
    commit: str | None = None
    sha256: str | None = None


def explain(error: Exception, file: HubFile) -> MissingError:
    """The sentence for a failed download."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        error.__cause__, errors.HfHubHTTPError
    ):
        error = error.__cause__  # the Hub did answer; the client looked in its cache after that
    repo, where = f"`{file.repo}`", endpoint()
    kind, folder = ("dataset", "datasets/") if file.repo_type == "dataset" else ("repository", "")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return MissingError(
            f"{repo} is gated: its authors ask you to accept their terms first.",
            f"Accept them at {where}/{folder}{file.repo}, then run `hf auth login`.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotThere(
            f"There is no {kind} {repo} at {where}, or it is private.",
            "Check the name; for a private repository run `hf auth login`.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MissingError(
            f"{repo} has no revision `{file.revision}`.", "Change `teacher.revision`."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return NotThere(f"{repo} has no file `{file.path}` at revision `{file.revision}`.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if is_offline():
            asked = ACCESS.get().local_files_only
            why = "`local_files_only` is asked for" if asked else "HF_HUB_OFFLINE is set"
            return NotThere(
                f"`{file}` is not in the cache {download_cache()}, and {why}.",
                "Download it once while online, or name a folder that has it with `--local-dir`.",
            )
        return unreachable(file)
    if any(cls.__name__ in NETWORK_ERRORS for cls in type(error).__mro__):
        return unreachable(file)
    if status in (401, 403):
        return MissingError(f"{where} refuses access to {repo} ({status}).", "Run `hf auth login`.")
    if status == 429:
        return MissingError(
            f"{where} asks to slow down (429) for `{file}`.",
            "Wait some minutes and run the same command again; `hf auth login` raises the limit.",
        )
    if status is not None:
        return MissingError(
            f"{where} answers {status} for `{file}`.", "Try again later; nothing is lost."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return disk_full(download_cache())
    first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return MissingError(
        f"The download of `{file}` failed: {first_line}",
        "Run the same command again; a damaged download is never kept.",
    )


def unreachable(file: HubFile) -> Unreachable:
    """The sentence for a network that is not there."""
    return Unreachable(
        f"Cannot reach {endpoint()} for `{file}`.",
        "Check network and proxy; for an air-gapped machine set HF_ENDPOINT to a mirror or use "
        "`--local-dir`.",
    )


def disk_full(folder: Path) -> MissingError:
    """The sentence for a full disk."""
    return MissingError(
        f"The disk of {folder} is full.",
        "Free some space, or move the caches by setting HF_HOME to another disk.",
    )


def check_known_hash(file: HubFile, announced: str | None) -> None:
    """Refuse a file that is not the one dimo knows."""
    if file.sha256 and announced and SHA256.match(announced) and file.sha256 != announced:
        raise MissingError(
            f"`{file}` is not the file that dimo knows: its hash starts with {announced[:12]}, "
            f"not {file.sha256[:12]}. It was replaced on the Hub.",
            "If you trust it, pin its commit: `--set teacher.revision=COMMIT`.",
        )


def cached_path(file: HubFile) -> Path | None:
    """Where a file is in the cache; None where it is not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        file.repo,
        file.path,
        cache_dir=download_cache(),
        revision=file.revision,
        repo_type=file.repo_type,
    )
    return Path(found) if isinstance(found, str) else None


class HubStore:
    """Published files from a local folder, or from the Hub through its cache."""

    def __init__(
        self,
        local_dir: Path | None = None,
        revisions: Mapping[str, str] | None = None,
        known_hashes: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`revisions` pins repositories; with `known_hashes` a file that dimo knows the hash of
        must have it."""
        self.local_dir, self.revisions = local_dir, dict(revisions or {})
        self.known_hashes, self.say = known_hashes, say
        self.commits: dict[str, str] = {}

    def config(self, file: HubFile) -> dict[str, Any]:
        """A JSON or YAML file, parsed."""
        import yaml

        path = self.locate(file).path
        parse = json.loads if path.suffix == ".json" else yaml.safe_load
        try:
            content = parse(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError, RecursionError):
            content = None
        if not isinstance(content, dict):
            self.forget(path)
            raise MissingError(
                f"`{file}` is not a valid configuration file.", "Run the same command again."
            )
        check_sizes(content, f"`{file}`")
        return content

    def folder(self, files: tuple[HubFile, ...]) -> Path:
        """A local folder with these files of one repository folder; only the first must exist."""
        first, *others = files
        path = self.locate(first).path
        for file in others:
            try:
                self.locate(file)
            except NotThere:
                continue
        return path.parent

    def weights(self, published: Published) -> StateDict:
        """The weights under our names, memory-mapped where possible."""
        from dimo_cli.teachers.weights import read_published

        return read_published(published, *self.first(published), self)

    def first(self, published: Published) -> tuple[HubFile, Located]:
        """The first of the files that is to be had."""
        problems: list[MissingError] = []
        for file in published.files:
            try:
                return file, self.locate(file)
            except NotThere as problem:
                problems.append(problem)
        if len(problems) == 1:
            raise problems[0]
        tried = " ".join(problem.message for problem in problems)
        raise MissingError(
            f"None of {len(problems)} sources has these weights. {tried}", problems[0].hint
        )

    def revision_of(self, published: Published) -> str:
        """The commit that the weights were read from; `local` for a local folder."""
        for file in published.files:
            if file.repo in self.commits:
                return self.commits[file.repo]
        return "local" if self.local_dir else published.files[0].revision

    def origin(self) -> str:
        """What tells the files of this store from those of another."""
        return f"local:{self.local_dir.resolve()}" if self.local_dir else "hub"

    def prompt_cache(self) -> Path:
        """The folder of cached prompt embeddings."""
        return dimo_cache() / "prompts"

    def locate(self, file: HubFile) -> Located:
        """The file on this machine, downloaded and verified if need be."""
        if self.local_dir is not None:
            return Located(self.locate_locally(file, self.local_dir))
        path = self._download(self.pinned(file))
        match = COMMIT.search(path.as_posix())
        commit = match.group(1) if match else None
        if commit:
            self.commits[file.repo] = commit
        blob = path.resolve().name  # large files are stored under their sha256
        announced = blob if SHA256.match(blob) else None
        if self.knows(file):
            check_known_hash(file, announced)
        return Located(path, commit, announced)

    def knows(self, file: HubFile) -> bool:
        """Whether a file must be the one that dimo knows: not in a repository pinned by hand."""
        return self.known_hashes and file.repo not in self.revisions

    def pinned(self, file: HubFile) -> HubFile:
        """The file at the revision that the user asked for."""
        return replace(file, revision=self.revisions.get(file.repo, file.revision))

    def locate_locally(self, file: HubFile, folder: Path) -> Path:
        """The file in a folder that is laid out like the Hub, or like one of its repositories."""
        name = file.repo.split("/")[-1]
        candidates = [
            folder / file.repo / file.path,
            folder / name / file.path,
            folder / file.path,
        ]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise NotThere(
            f"`{folder}` has no `{file}`.",
            f"Looked for {', '.join(str(path.relative_to(folder)) for path in candidates)}.",
        )

    def _download(self, file: HubFile) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        cached, token = cached_path(file) is not None, ACCESS.get().token
        away = is_offline() or not answers(endpoint())
        if away and not (cached or is_offline()):
            raise unreachable(file)
        new = not (away or cached)
        try:
            if new and self.knows(file) and file.sha256:
                url = hf_hub_url(
                    file.repo,
                    file.path,
                    repo_type=file.repo_type,
                    revision=file.revision,
                    endpoint=endpoint(),
                )
                check_known_hash(file, get_hf_file_metadata(url, token=token).etag)
            if new and file.path.endswith(WEIGHTS):
                size = f" ({file.size / 2**20:,.0f} MiB)" if file.size else ""
                self.say(f"Downloading {file}{size} ...")
            name = hf_hub_download(
                file.repo,
                file.path,
                repo_type=file.repo_type,
                revision=file.revision,
                cache_dir=download_cache(),
                endpoint=endpoint(),
                local_files_only=away,
                token=token,
                library_name="dimo",
            )
        except MissingError:
            raise
        except Exception as error:  # the Hub's, the disk's, or of whichever HTTP library is below
            raise explain(error, file) from error
        path = Path(name)
        announced = path.resolve().name
        if new and SHA256.match(announced) and file_sha256(path) != announced:
            self.forget(path)
            raise MissingError(
                f"`{file}` arrived damaged: its bytes do not match the hash {announced[:12]} that "
                f"{endpoint()} announced.",
                "Run the same command again; the damaged file was removed.",
            )
        return path

    def forget(self, path: Path) -> None:
        """Remove a damaged download from the cache, so that the next run fetches it again."""
        if self.local_dir is None:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
