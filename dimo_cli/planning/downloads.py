"""What a teacher needs from the Hub, before anything of it is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dimo_cli.errors import MissingError
from dimo_cli.hub.access import endpoint, is_offline
from dimo_cli.hub.network import answers
from dimo_cli.hub.problems import Unreachable, explain
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.shards import is_index, shards_of
from dimo_cli.hub.store import HubStore, cached_path, metadata_of
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import EMBEDDED, blueprint_of, store_for

FLOAT32_BYTES = 4
HERE, TO_DOWNLOAD, UNREACHABLE = "here", "to download", "the Hub cannot be reached"


@dataclass(frozen=True, slots=True)
class Need:
    """One file: how large it is (None: not known), and where it is or why it cannot be had."""

    file: HubFile
    size: int | None
    state: str
    is_exact: bool = True
    """Whether the size is that of the file, or counted from the network it holds."""

    @property
    def can_be_had(self) -> bool:
        """Whether it is here or can be downloaded."""
        return self.state in (HERE, TO_DOWNLOAD)

    def document(self) -> dict[str, Any]:
        """All of it for machines."""
        return {
            "file": str(self.file),
            "revision": self.file.revision,
            "bytes": self.size,
            "exact": self.is_exact,
            "state": self.state,
        }


def needs_of(source: TeacherSource, teacher: Teacher, ask_hub: bool = True) -> list[Need]:
    """Every file of a teacher, whose skeleton will do; nothing for one that ships inside dimo."""
    if source.name in EMBEDDED:
        return []
    blueprint, store = blueprint_of(source), store_for(source)
    sources: list[tuple[Published, nn.Module | None]] = [
        (blueprint.backbone, teacher.backbone),
        (blueprint.tokenizer, teacher.tokenizer),
    ]
    sources += [(Published((file,)), None) for file in blueprint.other_files]
    needs: list[Need] = []
    for published, network in sources:
        files = published.files
        if needs and needs[-1].state == UNREACHABLE:  # so is every other file
            need = replace(needs[-1], file=files[0], size=files[0].size, is_exact=True)
        else:
            need, *parts = needs_of_weights(files, store, ask_hub)
            needs += parts
        if need.size is None and network is not None:
            need = replace(need, size=counted_bytes(published, network), is_exact=False)
        needs.append(need)
    return needs


def counted_bytes(published: Published, network: nn.Module) -> int:
    """Bytes of published weights by the network that they are for."""
    here = published.copies * bytes_of(network) * published.number_bytes // FLOAT32_BYTES
    return here + published.dropped


def needs_of_weights(files: tuple[HubFile, ...], store: HubStore, ask_hub: bool) -> list[Need]:
    """The first source of weights that can be had; of an index that is here also what it names.

    Of one that is not here yet, the size is left open: that is told by the network.
    """
    need = first_need(files, store, ask_hub)
    if not is_index(need.file):
        return [need]
    if need.state != HERE:
        return [replace(need, size=None)]
    parts = shards_of(need.file, store.config(need.file))
    return [need, *(look_up(part, store, ask_hub) for part in parts)]


def bytes_of(network: nn.Module) -> int:
    """Bytes of a network's weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def first_need(files: tuple[HubFile, ...], store: HubStore, ask_hub: bool) -> Need:
    """The first source of a file that can be had, or why the preferred one cannot."""
    preferred = None
    for file in files:
        need = look_up(file, store, ask_hub)
        if need.can_be_had:
            return need
        preferred = preferred or need
    assert preferred is not None
    return preferred


def look_up(file: HubFile, store: HubStore, ask_hub: bool) -> Need:
    """Where a file is, asking the Hub for nothing but its size."""
    try:
        if store.local_dir is not None:
            path = store.locate_locally(file, store.local_dir)
            return Need(file, path.stat().st_size, HERE)
        file = store.pinned(file)
        cached = cached_path(file)
        if cached is not None:
            return Need(file, cached.stat().st_size, HERE)
        if is_offline():
            return Need(file, file.size, "not in the cache, and HF_HUB_OFFLINE is set")
        if not ask_hub:
            return Need(file, file.size, TO_DOWNLOAD)
        if not answers(endpoint()):
            return Need(file, file.size, UNREACHABLE)
        return Need(file, metadata_of(file).size, TO_DOWNLOAD)
    except Exception as error:  # the Hub's, or of whichever HTTP library is below
        problem = error if isinstance(error, MissingError) else explain(error, file)
        state = UNREACHABLE if isinstance(problem, Unreachable) else problem.message
        return Need(file, file.size, state)
