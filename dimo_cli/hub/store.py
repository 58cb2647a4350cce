"""The Hugging Face Hub: find, download and verify published files.

Every failure becomes a sentence with exit code 3, and no failure leaves a damaged file in a cache.
The environment is read at each call: HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_CACHE (where files
go), HF_HUB_OFFLINE (use what is there) and HF_TOKEN mean what they mean to the Hub's own client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dimo_cli.errors import MissingError, NotThere, size
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import check_sizes, parse_json
from dimo_cli.files.yaml_text import parse_yaml
from dimo_cli.hub.access import ACCESS, Located, dimo_cache, download_cache, endpoint, is_offline
from dimo_cli.hub.hashes import accept, accepted, hash_of
from dimo_cli.hub.network import answers
from dimo_cli.hub.problems import another_file, explain, unreachable
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.hub.shards import is_index, read_shards
from dimo_cli.hub.transfer import LARGE_SUFFIXES, bounded
from dimo_cli.hub.weights import read_published

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

SHA256 = re.compile(r"^[0-9a-f]{64}$")
COMMIT = re.compile(r"snapshots/([0-9a-f]{40})(/|$)")


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


def was_cached(file: HubFile) -> bool:
    """Whether the cache has a file of this name, of whichever commit."""
    from huggingface_hub.file_download import repo_folder_name

    folder = download_cache() / repo_folder_name(repo_id=file.repo, repo_type=file.repo_type)
    return any(folder.glob(f"snapshots/*/{escape(file.path)}"))


def metadata_of(file: HubFile) -> HfFileMetadata:
    """What the Hub says of a file without sending it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    where = {"repo_type": file.repo_type, "revision": file.revision, "endpoint": endpoint()}
    url, token = hf_hub_url(file.repo, file.path, **where), ACCESS.get().token
    return bounded(replace(file, size=None), partial(get_hf_file_metadata, url, token=token))


class HubStore:
    """Published files from a local folder, or from the Hub through its cache."""

    def __init__(
        self,
        local_dir: Path | None = None,
        revisions: Mapping[str, str] | None = None,
        known_hashes: bool = True,
        say: Callable[[str], None] = lambda line: None,
        manifest_commits: Mapping[str, str] | None = None,
    ) -> None:
        """`revisions` and `known_hashes` are a user's own words, for which files may be others than
        dimo knows: those of repositories pinned by `revisions`, or all without `known_hashes`.

        `manifest_commits` are those that a student's manifest names: files are read there, and must
        be what dimo knows, or what the user accepted before.
        """
        self.local_dir, self.revisions = local_dir, dict(revisions or {})
        self.known_hashes, self.say = known_hashes, say
        self.is_of_manifest = manifest_commits is not None
        # By repository: all of its files are read at one commit, also where it is pushed to.
        self.commits = {("model", repo): at for repo, at in (manifest_commits or {}).items()}

    def config(self, file: HubFile) -> dict[str, Any]:
        """A JSON or YAML file, parsed."""
        path = self.locate(file).path
        try:
            text = read_text(path, MOST_DOCUMENT)
            content = parse_json(text) if path.suffix == ".json" else parse_yaml(text)[0]
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
        file, located = self.first(published)
        local = self.local_dir is not None
        if is_index(file):
            parts = read_shards(
                file, self.config(file), lambda part: self.weights(Published((part,)))
            )
            return published.convert(parts)
        return read_published(published, file, located, local=local, forget=self.forget)

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
        if self.local_dir is not None:
            return "local"
        for file in published.files:
            if (file.repo_type, file.repo) in self.commits:
                return self.commits[file.repo_type, file.repo]
        return published.files[0].revision

    def origin(self) -> str:
        """What tells the files of this store from those of another."""
        return f"local:{self.local_dir.resolve()}" if self.local_dir else "hub"

    def prompt_cache(self) -> Path:
        """The folder of cached prompt embeddings."""
        return dimo_cache() / "prompts"

    def locate(self, file: HubFile) -> Located:
        """The file on this machine, downloaded and verified if need be."""
        if self.local_dir is not None:
            located = Located(self.locate_locally(file, self.local_dir))
        else:
            located = self._download(self.pinned(file))
            if located.commit:
                self.commits[file.repo_type, file.repo] = located.commit
        if file.sha256 is None:
            return located
        found = located.sha256 or hash_of(located.path)
        self.check_hash(file, found)
        return replace(located, sha256=found)

    def check_hash(self, file: HubFile, found: str) -> None:
        """Refuse a file that is not the one dimo knows, unless the user takes responsibility."""
        if file.sha256 in (None, found):
            return
        if not self.knows(file):
            if found not in accepted(file):
                self.say(f"{file} is not the file that dimo knows. It is used as you asked for it.")
                accept(file, found)
        elif not (self.is_of_manifest and found in accepted(file)):
            raise another_file(file, found, self.local_dir)

    def knows(self, file: HubFile) -> bool:
        """Whether a file must be the one that dimo knows: not in a repository pinned by hand."""
        return self.known_hashes and file.repo not in self.revisions

    def pinned(self, file: HubFile) -> HubFile:
        """The file at the commit that its repository is read at, or at the revision asked for."""
        revision = self.revisions.get(file.repo, file.revision)
        return replace(file, revision=self.commits.get((file.repo_type, file.repo), revision))

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

    def _download(self, file: HubFile) -> Located:
        from huggingface_hub import hf_hub_download

        away = is_offline() or not answers(endpoint())
        if away and not (is_offline() or cached_path(file)):
            raise unreachable(file)
        expected = file if self.knows(file) and file.sha256 else replace(file, size=None)
        fetch = partial(
            hf_hub_download,
            file.repo,
            file.path,
            repo_type=file.repo_type,
            revision=file.revision,
            cache_dir=download_cache(),
            endpoint=endpoint(),
            local_files_only=away,
            token=ACCESS.get().token,
            library_name="dimo",
        )
        try:
            if not (away or was_cached(file)):
                self._announce(file)
            return self._verified(file, Path(bounded(expected, fetch)))
        except MissingError:
            raise
        except Exception as error:  # the Hub's, the disk's, or of whichever HTTP library is below
            raise explain(error, file) from error

    def _announce(self, file: HubFile) -> None:
        """Before a first download: refuse what is known to be another file, and say what comes."""
        if self.knows(file) and file.sha256:
            announced = metadata_of(file).etag
            if announced and SHA256.match(announced):
                self.check_hash(file, announced)
        if file.path.endswith(LARGE_SUFFIXES):
            much = f" ({size(file.size)})" if file.size else ""
            self.say(f"Downloading {file}{much} ...")

    def _verified(self, file: HubFile, path: Path) -> Located:
        """A file of the cache with its commit and its hash, both of which its place there tells."""
        match = COMMIT.search(path.as_posix())
        commit = match.group(1) if match else None
        named = path.resolve().name  # large files are stored under their sha256
        if not SHA256.match(named):
            return Located(path, commit)
        if hash_of(path) != named:
            self.forget(path)
            raise MissingError(
                f"`{file}` arrived damaged: its bytes do not match the hash {named[:12]} that "
                f"{endpoint()} announced.",
                "Run the same command again; the damaged file was removed.",
            )
        return Located(path, commit, named)

    def forget(self, path: Path) -> None:
        """Remove a damaged download from the cache, so that the next run fetches it again."""
        if self.local_dir is None:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
