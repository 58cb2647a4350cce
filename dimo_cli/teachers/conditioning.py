"""Conditions that several families share: class labels, and prompts with cached embeddings."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dimo_cli.errors import SpecError
from dimo_cli.files.writing import whole_file
from dimo_cli.teachers.protocol import Cond, Conditioner

KEPT = 256  # prompts whose embeddings stay in memory: 81 MB of Meissonic's


class ClassConditioner(Conditioner):
    """Classes 0 to N - 1, drawn uniformly; the label N stands for no class."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def labels(self, labels: Tensor) -> Cond:
        return Cond({"label": labels})

    def null(self, count: int) -> Cond:
        return Cond({"label": torch.full((count,), self.classes)})

    def draw(self, count: int, generator: torch.Generator) -> Cond:
        labels = torch.randint(self.classes, (count,), generator=generator, device=generator.device)
        return self.labels(labels)

    def blank(self, count: int) -> Cond:
        return self.null(count)


class TextEncoder(ABC):
    """Prompts to the features a family is conditioned on."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Named features, each [len(prompts), ...], in float32."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Move the network."""


class TextTower(TextEncoder):
    """A text encoder that is one network behind token ids: it fits into an exported file."""

    template = "{prompt}"
    """The text whose token ids are taken, around a prompt."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.device: torch.device | str = "cpu"

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as token ids [B, T], all of one length."""

    @abstractmethod
    def states(self, ids: Tensor) -> dict[str, Tensor]:
        """The features of token ids, by torch alone."""

    @abstractmethod
    def tokenizer_json(self) -> str:
        """What makes token ids, in the format of the package `tokenizers`."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return self.states(self.tokens(prompts).to(self.device))

    def to(self, device: torch.device | str) -> None:
        self.network.to(device)
        self.device = device


def halved(feature: Tensor) -> Tensor:
    """A feature as it is cached: in half precision, but for token ids."""
    return feature.half() if feature.is_floating_point() else feature


def widened(feature: Tensor) -> Tensor:
    """A cached feature as networks are given it."""
    return feature.float() if feature.is_floating_point() else feature


class PromptConditioner(Conditioner):
    """Prompts through a text encoder that sees each prompt once, ever.

    `shapes` are those of one prompt's features; `constants` are further tensors, the same for every
    prompt (micro-conditions). `key` says which encoder made a cached embedding. The encoder is only
    loaded when a prompt is not in the cache.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        load_encoder: Callable[[], TextEncoder],
        key: str,
        cache: Path | None = None,
        constants: Mapping[str, Tensor] | None = None,
        negative_prompt: str = "",
        left_out: Callable[[str], tuple[str, ...]] = lambda prompt: (),
    ) -> None:
        self.shapes, self.load_encoder, self.key = shapes, load_encoder, key
        self.cache, self.constants = cache, dict(constants or {})
        self.negative_prompt, self._left_out = negative_prompt, left_out
        self.dataset: Sequence[str] = ()
        self.device: torch.device | str = "cpu"
        self._encoder: TextEncoder | None = None
        self._null: dict[str, Tensor] | None = None
        self._kept: dict[str, dict[str, Tensor]] = {}

    def prompts(self, prompts: Sequence[str]) -> Cond:
        known = {prompt: self._known(prompt) for prompt in prompts}
        missing = [prompt for prompt, row in known.items() if row is None]
        known |= dict(zip(missing, self._encode(missing), strict=True))
        self._keep(known)
        rows = [row for prompt in prompts if (row := known[prompt]) is not None]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in self.shapes}
        return self._complete(stacked, tuple(prompts))

    def left_out(self, prompt: str) -> tuple[str, ...]:
        return self._left_out(prompt)

    def null(self, count: int) -> Cond:
        if self._null is None:
            self._null = dict(self.prompts([self.negative_prompt]).tensors)
        rows = {name: self._null[name].expand(count, *shape) for name, shape in self.shapes.items()}
        return self._complete(rows)

    def draw(self, count: int, generator: torch.Generator) -> Cond:
        return self.draw_rows(count, generator, slice(None))

    def draw_rows(self, count: int, generator: torch.Generator, rows: slice) -> Cond:
        if not self.dataset:
            raise SpecError(
                "This teacher is conditioned on prompts, and the run has none.",
                "Give a text file with one prompt per line: `--set condition.prompts=FILE`, or a "
                "dataset of the Hub: `--set condition.prompts=hub:OWNER/NAME:COLUMN`.",
            )
        size = (count,)
        chosen = torch.randint(
            len(self.dataset), size, generator=generator, device=generator.device
        )
        return self.prompts([self.dataset[index] for index in chosen[rows].tolist()])

    def blank(self, count: int) -> Cond:
        return self._complete({name: torch.zeros(count, *s) for name, s in self.shapes.items()})

    def encoder(self) -> TextEncoder:
        """The text encoder, loaded when it is first asked for."""
        if self._encoder is None:
            self._encoder = self.load_encoder()
            self._encoder.to(self.device)
        return self._encoder

    def to(self, device: torch.device | str) -> PromptConditioner:
        self.device = device
        self._null = None
        if self._encoder is not None:
            self._encoder.to(device)
        return self

    def _complete(self, rows: Mapping[str, Tensor], texts: tuple[str, ...] = ()) -> Cond:
        """Add the constants and put everything on the device."""
        count = len(next(iter(rows.values())))
        constants = {
            name: value.expand(count, *value.shape) for name, value in self.constants.items()
        }
        return Cond({**rows, **constants}, texts).to(self.device)

    def _encode(self, prompts: list[str]) -> list[dict[str, Tensor]]:
        if not prompts:
            return []
        encoder = self.encoder()
        with torch.inference_mode():
            features = encoder.encode(prompts)
        rows = []
        for index, prompt in enumerate(prompts):
            # Half precision on disk; what a run sees is the same whether it was cached or not.
            row = {name: halved(features[name][index]).cpu().clone() for name in self.shapes}
            self._remember(prompt, row)
            rows.append({name: widened(tensor) for name, tensor in row.items()})
        return rows

    def _known(self, prompt: str) -> dict[str, Tensor] | None:
        """What is kept of a prompt, in memory or on disk."""
        return self._kept.get(prompt) or self._cached(prompt)

    def _keep(self, rows: Mapping[str, dict[str, Tensor] | None]) -> None:
        """Keep the rows of the latest prompts in memory."""
        for prompt, row in rows.items():
            if row is not None:
                self._kept.pop(prompt, None)
                self._kept[prompt] = row
        for prompt in list(self._kept)[:-KEPT]:
            del self._kept[prompt]

    def _path(self, prompt: str) -> Path | None:
        if self.cache is None:
            return None
        digest = hashlib.sha256(json.dumps([self.key, prompt]).encode()).hexdigest()
        return self.cache / digest[:2] / f"{digest}.safetensors"

    def _cached(self, prompt: str) -> dict[str, Tensor] | None:
        path = self._path(prompt)
        if path is None or not path.is_file():
            return None
        try:
            row = load_file(path)
        except (SafetensorError, OSError):  # damaged: encode it again
            return None
        if any(name not in row or row[name].shape != shape for name, shape in self.shapes.items()):
            return None
        return {name: widened(row[name]) for name in self.shapes}

    def _remember(self, prompt: str, row: dict[str, Tensor]) -> None:
        path = self._path(prompt)
        if path is None:
            return
        with suppress(OSError, SafetensorError):  # no room for a cache is no reason to stop
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, durable=False) as temporary:
                save_file(row, temporary)
