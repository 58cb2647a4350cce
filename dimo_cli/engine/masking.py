"""The forward masking process and the student's initial tokens.

In training, ratios and masks are drawn on the host, where Python sees how many tokens are masked
without waiting for a card.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source, integers, normal, on_host, uniform
from dimo_cli.errors import SpecError
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Tokenizer, TokenSpace, moved


def masked_count(ratio: Tensor, length: int) -> Tensor:
    """Exact number of masked tokens at a ratio: rounded half to even, never below one."""
    return torch.round(length * ratio).long().clamp(1, length)


def random_ranks(count: int, length: int, generator: Source) -> Tensor:
    """The place of each entry [count, length] in a random order of its row."""
    order = uniform((count, length), generator).argsort(-1)
    return torch.empty_like(order).scatter_(
        -1, order, torch.arange(length, device=order.device).expand_as(order)
    )


def exact_mask(counts: Tensor, length: int, generator: Source) -> Tensor:
    """A mask [B, length] with exactly `counts` [B] uniformly chosen true entries per row."""
    ranks = random_ranks(len(counts), length, generator)
    return ranks < counts[:, None].to(ranks.device)


def bernoulli_mask(ratio: Tensor, length: int, generator: Source) -> Tensor:
    """A mask [B, length] that takes each entry apart with probability `ratio` [B].

    A row that came out empty gets one entry: a sample without a masked token teaches nothing.
    """
    scores = uniform((len(ratio), length), generator)
    mask = scores < ratio[:, None].to(scores.device)
    lowest = torch.zeros_like(mask).scatter_(-1, scores.argmin(-1, keepdim=True), True)
    return torch.where(mask.any(-1, keepdim=True), mask, lowest)


def draw_ratio(
    schedule: str,
    count: int,
    generator: Source,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Tensor:
    """Draw t ~ U[0, 1] for `count` samples and return their mask ratios r_t [B]."""
    u = uniform((count,), on_host(generator))
    return SCHEDULES[schedule](u).clamp(lowest, highest)


def forward_mask(
    tokens: Tensor,
    ratio: Tensor,
    mask_id: int,
    generator: Source,
    exact: bool = True,
) -> tuple[Tensor, Tensor]:
    """Sample x_tilde ~ q(. | x_theta): tokens [B, L, G] masked at `ratio` [B], and the mask."""
    mask = moved(draw_mask(tokens.shape, ratio, generator, exact), tokens.device)
    return tokens.masked_fill(mask, mask_id), mask


def draw_mask(shape: Sequence[int], ratio: Tensor, generator: Source, exact: bool = True) -> Tensor:
    """A mask [B, L, G] at `ratio` [B], where it was drawn: on the host in training."""
    source, size = on_host(generator), math.prod(shape[1:])
    if exact:
        return exact_mask(masked_count(ratio, size), size, source).view(*shape)
    return bernoulli_mask(ratio, size, source).view(*shape)


@dataclass(frozen=True, slots=True)
class Mask:
    """Which slots [B, L, G] are masked, and at which positions [N] of the flat [B L] any is.

    Both are where the networks are; the positions were found where the mask was drawn.
    """

    slots: Tensor
    rows: Tensor

    @classmethod
    def of(cls, slots: Tensor, device: torch.device) -> Mask:
        """A mask that was drawn on the host, on its way to a device."""
        rows = slots.any(-1).flatten().nonzero().squeeze(-1)
        return cls(moved(slots, device), moved(rows, device))


def random_tokens(space: TokenSpace, count: int, generator: Source) -> Tensor:
    """Uniformly random image tokens [B, L, G]."""
    return integers(space.codes, (count, space.length, space.groups), generator)


def initial_tokens(
    space: TokenSpace,
    count: int,
    mask_ratio: float,
    generator: Source,
    control: str = "none",
    control_token: int | None = None,
    tokenizer: Tokenizer | None = None,
    source: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample x_init [B, L, G]: exactly round(r_init L G) mask tokens, the rest random image tokens.

    The mask [B, L, G] is returned beside the tokens. `control` asks for one of the variants of
    Table 6, which break this recipe on purpose. Tokens of a `source` [1 or B, L, G] replace the
    random ones under the same mask (supplement, E.6 and E.7). A `mask` that was drawn already is
    taken as it is.
    """
    if source is not None:
        check_source(control)
    if control == "encoded_noise":
        assert tokenizer is not None
        shape = (count, 3, space.image_size, space.image_size)
        tokens = tokenizer.encode(normal(shape, generator))
        return tokens, torch.zeros_like(tokens, dtype=torch.bool)
    tokens = random_tokens(space, count, generator)  # also drawn for a source: the mask stays
    if source is not None:
        tokens = source.to(tokens.device).expand_as(tokens)
    if control == "random_class_tokens":
        classes = class_tokens(space)
        tokens = classes.start + integers(len(classes), tokens.shape, generator)
    filler = space.mask_id
    if control == "fixed_image_token":
        filler = space.codes // 2 if control_token is None else control_token
    elif control == "fixed_class_token":
        classes = class_tokens(space)
        filler = classes[len(classes) // 2 if control_token is None else control_token]
    if mask is not None:
        return tokens.masked_fill(mask, filler), mask
    ratio = torch.full((count,), mask_ratio, device=on_host(generator).device)
    return forward_mask(tokens, ratio, filler, generator)


def class_tokens(space: TokenSpace) -> range:
    """The ids of class tokens, refused for a family that has none."""
    if space.class_ids is None:
        raise SpecError(
            "`init.control` asks for class tokens, but this teacher has none in its token table.",
            "Use fixed_image_token or encoded_noise.",
        )
    return space.class_ids


def check_source(control: str) -> None:
    """Refuse image tokens for a student that was trained without any."""
    if control in ("encoded_noise", "random_class_tokens"):
        raise SpecError(
            f"This student starts from {control.replace('_', ' ')} (`init.control`): there are no "
            "image tokens in its initial sequence that others could replace.",
            "Use a student that was distilled without that control.",
        )


def check_control(space: TokenSpace, control: str, control_token: int | None) -> None:
    """Refuse a control token that the teacher does not have, before a run starts."""
    if "class" in control:
        class_tokens(space)
    if control_token is None:
        return
    limit = space.codes if control == "fixed_image_token" else len(class_tokens(space))
    if control_token >= limit:
        raise SpecError(
            f"`init.control_token` is {control_token}, but {control} allows 0 to {limit - 1}."
        )
