"""The Hugging Face Hub: find, download and verify published files.

Every failure becomes a sentence with exit code 3, and no failure leaves a damaged file in a cache.
The environment is read at each call: HF_ENDPOINT (a mirror), HF_HOME and HF_HUB_CACHE (where files
go), HF_HUB_OFFLINE (use what is there) and HF_TOKEN mean what they mean to the Hub's own client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dimo_cli.errors import MissingError, NotThere
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import check_sizes, parse_json
from dimo_cli.files.writing import file_sha256
from dimo_cli.files.yaml_text import parse_yaml
from dimo_cli.hub.access import ACCESS, Located, dimo_cache, download_cache, endpoint, is_offline
from dimo_cli.hub.network import answers
from dimo_cli.hub.problems import explain, unreachable
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.hub.weights import read_published

SHA256 = re.compile(r"^[0-9a-f]{64}$")
COMMIT = re.compile(r"snapshots/([0-9a-f]{40})(/|$)")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


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
            if new and file.path.endswith(WEIGHT_SUFFIXES):
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
