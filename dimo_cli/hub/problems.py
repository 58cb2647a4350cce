"""The sentence for everything that can go wrong with a download."""

from __future__ import annotations

from pathlib import Path

from dimo_cli.errors import MissingError, NotThere
from dimo_cli.hub.access import ACCESS, download_cache, endpoint, is_offline
from dimo_cli.hub.published import HubFile

# What HTTP libraries call a network that is not there.
NETWORK_ERRORS = ("ConnectError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError")


class Unreachable(MissingError):
    """The Hub does not answer at all."""


def explain(error: Exception, file: HubFile) -> MissingError:
    """The sentence for a failed download."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        error.__cause__, errors.HfHubHTTPError
    ):
        error = error.__cause__  # the Hub did answer; the client looked in its cache after that
    repo, where = f"`{file.repo}`", endpoint()
    is_dataset = file.repo_type == "dataset"
    kind, folder = ("dataset", "datasets/") if is_dataset else ("repository", "")
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
            f"{repo} has no revision `{file.revision}`.",
            "Change what follows the `@`."
            if is_dataset
            else "Change what follows the `@` of a student, or `teacher.revision` of a teacher.",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return NotThere(f"{repo} has no file `{file.path}` at revision `{file.revision}`.")
    if isinstance(error, errors.LocalEntryNotFoundError):
        if is_offline():
            asked = ACCESS.get().local_files_only
            why = "`local_files_only` is asked for" if asked else "HF_HUB_OFFLINE is set"
            return NotThere(
                f"`{file}` is not in the cache {download_cache()}, and {why}.",
                "Run the same command once while online."
                if is_dataset
                else "Download it once while online, or name a folder that has it with "
                "`--local-dir`.",
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


def another_file(file: HubFile, found: str, local_dir: Path | None) -> MissingError:
    """The sentence for a file that is not the one dimo knows, and how a user accepts it."""
    place = f"`{local_dir}`" if local_dir else f"`{file.repo}`"
    why = "" if local_dir else " It was replaced on the Hub."
    setting = "teacher.revision=local" if local_dir else "teacher.revision=COMMIT"
    return MissingError(
        f"`{file}` in {place} is not the file that dimo knows: its hash starts with {found[:12]}, "
        f"not {(file.sha256 or '')[:12]}.{why}",
        f"If you trust it: `--set {setting}` with its preset. For a student do that once with "
        f"`dimo sample --preset PRESET --teacher`; what its manifest says does not count.",
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
