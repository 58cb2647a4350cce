"""The reward protocol: everything the engine ever knows about a reward model.

A reward scores pairs of an image and a prompt. It is frozen, it is differentiable to the pixels,
and it reads every prompt once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import fill
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.rewards.preprocess import preprocess

N = TypeVar("N", bound=nn.Module)
PROMPTS_AT_ONCE = 64
KEPT_BYTES = 2**30  # of encoded prompts: training draws from millions, and each comes rarely


@dataclass(frozen=True, slots=True)
class FileByHand:
    """A file that is not on the Hub: a person has to fetch it."""

    file: HubFile
    url: str


@dataclass(frozen=True, slots=True)
class RewardCard:
    """What is known of a reward model before anything of it is downloaded."""

    name: str
    summary: str
    scale_note: str
    """What the number is, and where it usually lies."""
    license: str
    weights: Published
    parameters: int
    """Number of the parameters that are loaded."""
    other_files: tuple[HubFile, ...] = ()
    """Configs and vocabularies: what else is downloaded."""
    by_hand: tuple[FileByHand, ...] = ()


@dataclass(frozen=True, slots=True)
class RewardText:
    """Prompts as a reward reads them: named tensors with one row for each prompt."""

    prompts: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> RewardText:
        tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return RewardText(self.prompts[rows], tensors)


class Checkpointed(nn.Module):
    """A stack of blocks that can recompute its activations in the backward pass.

    The switches of libraries do nothing outside of training mode, which rewards never enter.
    """

    gradient_checkpointing = False

    def run_block(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Run one block, keeping only its inputs for the backward pass if asked to."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class Reward(nn.Module, ABC):
    """A frozen judge of images: higher is better.

    Its network never leaves evaluation mode. Encoded prompts are remembered, up to a limit.
    """

    def __init__(
        self, card: RewardCard, network: nn.Module, image_size: int, antialias: bool = True
    ) -> None:
        """Without `antialias` images are resized as by libraries of before 2024."""
        super().__init__()
        self.card, self.name, self.scale_note = card, card.name, card.scale_note
        self.network = network.requires_grad_(False).eval()
        self.image_size, self.antialias = image_size, antialias
        self._rows: dict[str, dict[str, Tensor]] = {}
        self._bytes = 0

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The text side of some prompts: named tensors with one row for each."""

    @abstractmethod
    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        """Scores [B] of images that are preprocessed already."""

    def prepare(self, prompts: Sequence[str]) -> RewardText:
        """The text side of prompts on the device of the images, each encoded once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        for start in range(0, len(new), PROMPTS_AT_ONCE):
            self._remember(new[start : start + PROMPTS_AT_ONCE])
        rows = [self._rows[prompt] for prompt in prompts]
        names = rows[0] if rows else ()
        tensors = {name: torch.stack([row[name] for row in rows]) for name in names}
        self._forget()
        return RewardText(
            tuple(prompts), {name: tensor.to(self.device) for name, tensor in tensors.items()}
        )

    # What is encoded while only sampling must serve training too: no inference tensors.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _remember(self, prompts: list[str]) -> None:
        found = {name: tensor.cpu() for name, tensor in self.encode(prompts).items()}
        for number, prompt in enumerate(prompts):
            # Each a tensor of its own: as a view it would keep all others that it came with.
            row = {name: tensor[number].clone() for name, tensor in found.items()}
            self._rows[prompt] = row
            self._bytes += bytes_of(row)

    def _forget(self) -> None:
        """Drop the prompts that were read first, as far as there are too many."""
        while self._bytes > KEPT_BYTES and self._rows:
            self._bytes -= bytes_of(self._rows.pop(next(iter(self._rows))))

    def forward(self, images: Tensor, text: RewardText) -> Tensor:
        """Scores [B] of images [B, 3, H, W] in [-1, 1] of any size, each with its own prompt."""
        assert len(images) == len(text), "one prompt for each image"
        pixels = preprocess(images, self.image_size, self.antialias)
        return self.score(pixels.to(self.dtype), text).float()

    def offload_text(self) -> None:
        """Move what only prompts need to the CPU; `prepare` goes on to work, but slowly."""

    def train(self, mode: bool = True) -> Reward:
        """Set the mode of the wrapper alone: the network inside stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the image side recomputes its activations in the backward pass."""
        return any(part.gradient_checkpointing for part in self._stacks())

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        for part in self._stacks():
            part.gradient_checkpointing = enabled

    def _stacks(self) -> list[Checkpointed]:
        return [part for part in self.modules() if isinstance(part, Checkpointed)]

    @property
    def device(self) -> torch.device:
        """Where images are scored."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network; preprocessing and scores are float32 in any case."""
        return next(self.parameters()).dtype


def bytes_of(row: Mapping[str, Tensor]) -> int:
    """What the tensors of a prompt take up."""
    return sum(tensor.nbytes for tensor in row.values())


def fill_reward(network: N, weights: StateDict, card: RewardCard) -> N:
    """Give a meta network the published weights, strictly."""
    what = f"`{card.weights.files[0]}`"
    try:
        return fill(network, weights, what)
    except MissingError as error:
        raise MissingError(error.message, f"Is it the published file of `{card.name}`?") from None
