"""What is published where: files, the networks whose weights they hold, and who fetches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

StateDict = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a Hub repository, and what is known of it."""

    repo: str
    path: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None
    repo_type: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}"


def unchanged(weights: StateDict) -> StateDict:
    """Published names that are ours already."""
    return weights


@dataclass(frozen=True, slots=True)
class Published:
    """The published weights of one network."""

    files: tuple[HubFile, ...]
    """The same weights in several places or formats: the first that is there is used.

    One that ends in `.safetensors.index.json` stands for the files that it names.
    """
    inside: str | None = None
    """Key of the state dict within the file, where it is not the whole file."""
    convert: Callable[[StateDict], StateDict] = unchanged
    """Published names to ours. What it drops it names, with the reason beside it."""
    copies: int = 1
    """How many numbers a file holds for each of the network's: three with both moments of Adam."""
    number_bytes: int = 4
    """Bytes of a published number: two where weights are in half precision."""
    dropped: int = 0
    """Bytes of a file that `convert` drops, which are downloaded all the same."""


class Store(Protocol):
    """Where published files come from: the Hub, its cache, or a local folder."""

    def config(self, file: HubFile) -> dict[str, Any]:
        """A JSON or YAML file, parsed."""

    def folder(self, files: tuple[HubFile, ...]) -> Path:
        """A local folder that holds these files of one repository folder."""

    def weights(self, published: Published) -> StateDict:
        """The weights under our names, memory-mapped where possible."""

    def revision_of(self, published: Published) -> str:
        """The commit that the weights were read from; `local` for a local folder."""

    def origin(self) -> str:
        """What tells the files of this store from those of another."""

    def prompt_cache(self) -> Path:
        """The folder of cached prompt embeddings."""
