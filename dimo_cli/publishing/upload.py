"""Files to a repository of the Hub: what is there already is not sent, what breaks is tried again.

Nothing here keeps or shows a token: the Hub's own client reads it where `hf auth login` left it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dimo_cli import __version__
from dimo_cli.errors import MissingError, SpecError, counted
from dimo_cli.files.writing import CHUNK
from dimo_cli.hub.access import endpoint, is_offline
from dimo_cli.hub.network import answers
from dimo_cli.hub.problems import NETWORK_ERRORS
from dimo_cli.redacting import without_secrets
from dimo_cli.specs.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, WEIGHTS
from dimo_cli.specs.push import PushSpec

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Say = Callable[[str], None]
MAIN = "main"
PAUSES = (2, 8)  # seconds between attempts; within one the client repeats requests by itself
# A connection that breaks while something is sent, under the names of the client's HTTP library.
BROKEN = (*NETWORK_ERRORS, "NetworkError", "TimeoutException", "RemoteProtocolError")
FULL, MAY_BE_FULL = (402, 413, 507), (None, 400, 403)
NO_ROOM = ("quota", "storage", "too large", "limit reached", "exceeded")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    repository: str
    url: str
    revision: str
    commit: str
    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    pull_request: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes a commit of a repository hold the student that is pushed, and no other."""

    parent: str
    files: tuple[Upload, ...]
    removed: tuple[str, ...]


def push_files(files: Sequence[Upload], spec: PushSpec, title: str, say: Say) -> Pushed:
    """Bring files into a repository in one commit; a second time nothing is sent."""
    from huggingface_hub import HfApi, get_token

    if is_offline():
        raise MissingError("HF_HUB_OFFLINE is set, and a push needs the Hub.", "Unset it.")
    if get_token() is None:
        raise MissingError(
            "A push needs a login, and there is none.",
            f"Make a token that may write at {endpoint()}/settings/tokens, then run "
            "`hf auth login` or set HF_TOKEN.",
        )
    if not answers(endpoint()):
        raise MissingError(
            f"Cannot reach {endpoint()}: nothing was sent.",
            "Check network and proxy, then run the same command again.",
        )
    api = HfApi(endpoint=endpoint(), library_name="dimo", library_version=__version__)
    try:
        return with_patience(lambda: attempt(api, files, spec, title, say), say)
    except (MissingError, SpecError):
        raise
    except Exception as error:  # the client's, or of whichever HTTP library is below
        raise explain_upload(error, spec.repository) from error


def with_patience(work: Callable[[], T], say: Say) -> T:
    """Do some work, again if the connection or the Hub broke down in between."""
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not is_passing(error):
                raise
            say(f"The connection to {endpoint()} broke: trying again in {pause} s.")
            time.sleep(pause)
    return work()


def attempt(api: HfApi, files: Sequence[Upload], spec: PushSpec, title: str, say: Say) -> Pushed:
    """One try, which goes on from whatever an earlier one left."""
    repository = spec.repository
    open_repository(api, spec)
    tag_is_there = spec.tag is not None and check_tag(api, files, repository, spec.tag)
    pull_request = open_pull_request(api, repository, title) if spec.create_pr else None
    revision = f"refs/pr/{pull_request}" if pull_request else spec.branch or MAIN
    if spec.branch and spec.branch not in refs_of(api, repository)[0]:
        api.create_branch(repository, branch=spec.branch, exist_ok=True)
    changes = changes_to(api, files, spec, revision)
    commit = changes.parent
    if changes.files or changes.removed:
        commit, made = send(api, changes, spec, revision, title, say)
        pull_request = made or pull_request
    if spec.tag and not tag_is_there:
        api.create_tag(repository, tag=spec.tag, revision=commit)
    url = without_secrets(f"{endpoint()}/{repository}")
    names = {file.name for file in changes.files}
    return Pushed(
        repository=repository,
        url=url,
        revision=f"refs/pr/{pull_request}" if pull_request else revision,
        commit=commit,
        uploaded=tuple(file.name for file in changes.files),
        unchanged=tuple(file.name for file in files if file.name not in names),
        removed=changes.removed,
        pull_request=f"{url}/discussions/{pull_request}" if pull_request else None,
        tag=spec.tag,
    )


def open_repository(api: HfApi, spec: PushSpec) -> None:
    """Find the repository, or make it; refuse one that is not what was asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    name = spec.repository
    try:
        found = api.model_info(name)
    except RepositoryNotFoundError:
        if spec.create_pr:
            raise MissingError(
                f"There is no repository `{name}` to propose a change to, or it is private.",
                "Make it first: the same command without --create-pr.",
            ) from None
        api.create_repo(name, private=spec.private, exist_ok=True)
        return
    if spec.private is not None and found.private is not None and spec.private != found.private:
        state, flag = ("private", "--public") if found.private else ("public", "--private")
        raise SpecError(
            f"`{name}` is {state} already, and the flag is {flag}.",
            f"Change it at {endpoint()}/{name}/settings, or leave the flag out.",
        )


def refs_of(api: HfApi, repository: str) -> tuple[set[str], set[str]]:
    """The branches and the tags of a repository."""
    refs = api.list_repo_refs(repository)
    return {ref.name for ref in refs.branches}, {ref.name for ref in refs.tags}


def check_tag(api: HfApi, files: Sequence[Upload], repository: str, tag: str) -> bool:
    """Whether a tag is there and holds these very files; refuse one that holds others."""
    if tag not in refs_of(api, repository)[1]:
        return False
    changed = changed_files(api, files, repository, tag)
    if changed:
        raise SpecError(
            f"`{repository}` has a tag `{tag}` already, and there "
            f"{', '.join(file.name for file in changed)} differ from these.",
            "Choose another `--tag`: one that others may rely on does not move.",
        )
    return True


def open_pull_request(api: HfApi, repository: str, title: str) -> int | None:
    """The pull request that an earlier push of the same student left open."""
    found = api.get_repo_discussions(
        repository, discussion_type="pull_request", discussion_status="open"
    )
    return next((one.num for one in found if one.is_pull_request and one.title == title), None)


def changes_to(api: HfApi, files: Sequence[Upload], spec: PushSpec, revision: str) -> Changes:
    """What is to be done with a revision; refused on main if that is another model's."""
    found = api.model_info(spec.repository, revision=revision)
    there = {file.rfilename for file in found.siblings or ()}
    if spec.branch in (None, MAIN):
        check_no_other_model(spec.repository, there)
    commit = str(found.sha)
    changed = changed_files(api, files, spec.repository, commit)
    return Changes(commit, tuple(changed), tuple(left_of_another_kind(files, there)))


def check_no_other_model(repository: str, there: Collection[str]) -> None:
    """Refuse a repository whose weights are not of a student."""
    weights = [name for name in (WEIGHTS, ADAPTER_WEIGHTS) if name in there]
    if weights and MANIFEST not in there:
        raise SpecError(
            f"`{repository}` holds another model: its {weights[0]} is not of a student.",
            "Push to a name of its own, or to a branch with `--branch`.",
        )


def left_of_another_kind(files: Sequence[Upload], there: Collection[str]) -> list[str]:
    """Weights of the student before this one, where one has adapters and the other has not.

    `peft` would find the old adapters beside the new weights.
    """
    if MANIFEST not in there:
        return []
    names = {file.name for file in files}
    kinds = (WEIGHTS, ADAPTER_WEIGHTS, ADAPTER_CONFIG)
    return [name for name in kinds if name in there and name not in names]


def changed_files(
    api: HfApi, files: Sequence[Upload], repository: str, revision: str
) -> list[Upload]:
    """The files that a revision does not have, or has with other bytes."""
    there: dict[str, Any] = {
        info.path: info
        for info in api.get_paths_info(repository, [file.name for file in files], revision=revision)
    }
    return [file for file in files if not is_same(file, there.get(file.name))]


def is_same(file: Upload, there: Any) -> bool:
    """Whether a file of a repository has these bytes: large ones by sha256, others as git does."""
    if there is None:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file.sha256)
    return bool(there.blob_id == git_hash(file.path, file.size))


def git_hash(path: Path, size: int) -> str:
    """The name that git gives to the content of a file."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def send(
    api: HfApi, changes: Changes, spec: PushSpec, revision: str, title: str, say: Say
) -> tuple[str, int | None]:
    """Upload files and commit them together; returns the commit and a new pull request's number.

    The Hub refuses it if the revision has moved since the files were compared.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    size = sum(file.size for file in changes.files) / 2**20
    say(f"Uploading {counted(len(changes.files), 'file')} ({size:,.1f} MiB) ...")
    is_proposal = spec.create_pr and revision == MAIN
    made = api.create_commit(
        spec.repository,
        [
            *(CommitOperationAdd(file.name, str(file.path)) for file in changes.files),
            *(CommitOperationDelete(name) for name in changes.removed),
        ],
        commit_message=title,
        revision=revision,
        create_pr=is_proposal,
        parent_commit=changes.parent,
    )
    return made.oid, made.pr_num if is_proposal else None


def is_passing(error: Exception) -> bool:
    """Whether the same work may succeed a little later."""
    error = innermost(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500 and status != 507)
    return is_broken(error) and "xet-write-token" not in str(error)


def is_broken(error: Exception) -> bool:
    """Whether a connection failed, or was cut while it was used."""
    return any(cls.__name__ in BROKEN for cls in type(error).__mro__)


def innermost(error: Exception) -> Exception:
    """The client wraps what happens to one file of several."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def explain_upload(error: Exception, repository: str) -> MissingError:
    """The sentence for a failed push."""
    error, where = innermost(error), endpoint()
    owner = repository.partition("/")[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    told = words_of(error)
    again = "Run the same command again: what has arrived is not sent twice."
    if "xet-write-token" in str(error):
        return MissingError(
            f"{where} has no Xet storage, which the Hub's client uploads to by default.",
            "Set HF_HUB_DISABLE_XET=1 and run the same command again.",
        )
    if status in FULL or (status in MAY_BE_FULL and any(w in told.lower() for w in NO_ROOM)):
        code = f" ({status})" if status else ""
        return MissingError(
            f"{where} has no room for `{repository}`{code}: {told}",
            f"Make room or get more at {where}/settings/billing, then run the same command again.",
        )
    if status == 401:
        return MissingError(
            f"{where} does not accept your token (401).",
            f"Make one that may write at {where}/settings/tokens, then run `hf auth login` or set "
            "HF_TOKEN.",
        )
    if status == 403:
        return MissingError(
            f"You may not write to `{repository}` (403): {told}",
            f"Use a token with write access to `{owner}` ({where}/settings/tokens), push to a name "
            "of your own, or propose the change with --create-pr.",
        )
    if status == 404:
        return MissingError(f"{where} does not find `{repository}` (404): {told}", "Check it.")
    if status in (409, 412):
        return MissingError(f"`{repository}` changed in the meantime ({status}): {told}", again)
    if status == 429:
        return MissingError(f"{where} asks to slow down (429).", f"Wait some minutes. {again}")
    if status is not None:
        return MissingError(f"{where} answers {status} for `{repository}`: {told}", again)
    if is_broken(error):
        return MissingError(
            f"The connection to {where} broke.", f"Check network and proxy. {again}"
        )
    return MissingError(f"The push to `{repository}` failed: {told}", again)


def words_of(error: Exception) -> str:
    """What the Hub said, in one line, without addresses and never with the token."""
    said = getattr(error, "server_message", None)
    if not said and getattr(error, "response", None) is not None:
        said = "it gives no reason"  # the client's own text names addresses that are signed
    return without_secrets(" ".join(str(said or error or type(error).__name__).split()))[:300]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it will be in the repository."""

    name: str
    path: Path
    size: int
    sha256: str
    carries: tuple[str, ...] = ()
    """The names of what it tells beside its content: metadata, keys, front matter."""
