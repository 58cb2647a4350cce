"""x_tilde: how a step's tokens are masked again, and what of it can be drawn beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source, on_host, uniform
from dimo_cli.engine.losses import Losses
from dimo_cli.engine.masking import Mask, draw_mask, draw_ratio
from dimo_cli.engine.prepared import Prepared, PreparedStart
from dimo_cli.engine.schedules import draw_mask_ratio
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.init import MaskingSpec
from dimo_cli.teachers.protocol import Cond, TokenSpace


@dataclass(frozen=True, slots=True)
class Remasking:
    """The law of x_tilde ~ q(. | x_theta) for tokens with a mask id.

    `which` is the student's update (0) or one of the auxiliary's (1, 2, ...).
    """

    masking: MaskingSpec
    mask_id: int

    @property
    def is_exact(self) -> bool:
        """Whether a ratio says how many slots are masked, and not only how many on average."""
        return self.masking.method == "exact"

    def ratios(self, which: int, count: int, source: Source) -> Tensor:
        """Mask ratios r_t [B] within the limits of the spec."""
        masking = self.masking
        schedule = masking.auxiliary if which else masking.student
        return draw_ratio(schedule, count, source, masking.lowest, masking.highest)

    def at(
        self, tokens: Tensor, ratio: Tensor, source: Source, kept: Tensor | None = None
    ) -> tuple[Tensor, Mask]:
        """x_tilde at given ratios [B], and its mask.

        With `masking.bridge` what was `kept` [B, L, G] of an earlier step is never masked.
        """
        if kept is None or not self.masking.bridge:
            slots = draw_mask(tokens.shape, ratio, source, self.is_exact)
        else:
            slots = bridge_mask(kept, ratio, source, self.is_exact)
        mask = Mask.of(slots, tokens.device)
        return tokens.masked_fill(mask.slots, self.mask_id), mask

    def maskable(self, tokens: Tensor, kept: Tensor | None) -> int:
        """How many slots of a sample a ratio is a share of."""
        if kept is None or not self.masking.bridge:
            return tokens[0].numel()
        return int((~kept[0]).sum())

    def draw(
        self,
        tokens: Tensor,
        which: int,
        source: Source,
        prepared: Prepared | None = None,
        kept: Tensor | None = None,
        still_open: int = 0,
    ) -> tuple[Tensor, Tensor, Mask]:
        """Mask ratios [B], x_tilde and its mask, as they were `prepared` if they were.

        More slots are masked than the `still_open`, if there are any.
        """
        if prepared is None:
            ratio = self.ratios(which, len(tokens), source)
            if still_open:
                ratio = above(ratio, still_open, self.maskable(tokens, kept))
            x_tilde, mask = self.at(tokens, ratio, source, kept)
            if kept is not None and self.masking.bridge:  # it was the share of open slots
                ratio = mask.slots.flatten(1).float().mean(-1)
            return ratio, x_tilde, mask
        slots = prepared.masks[which]
        everywhere = torch.arange(tokens.shape[0] * tokens.shape[1], device=tokens.device)
        x_tilde = tokens.masked_fill(slots, self.mask_id)
        return prepared.ratios[which], x_tilde, Mask(slots, everywhere)


def above(ratio: Tensor, still_open: int, slots: int) -> Tensor:
    """Ratios [B] in which more of some slots are masked than are still open after a step.

    What a step leaves open is drawn anew by the next one: only as many of its tokens are judged
    together as stay, whose law the next step goes on from.
    """
    return ((still_open + (slots - still_open) * ratio) / slots).clamp(min=(still_open + 1) / slots)


def bridge_mask(kept: Tensor, ratio: Tensor, source: Source, is_exact: bool) -> Tensor:
    """A mask [B, L, G] of a share [B] of the slots that were not kept: at least of one (D-MMD).

    It is the way back from a step's tokens to a state between those that it saw and them: with
    single chances, an open slot stays masked with (1 - alpha_s) / (1 - alpha_t).
    """
    scores = uniform((len(kept), kept[0].numel()), on_host(source))
    is_open = ~kept.flatten(1).to(scores.device)
    order = scores.masked_fill(~is_open, torch.inf).argsort(-1).argsort(-1)
    if is_exact:
        counts = torch.round(ratio * is_open.sum(-1)).clamp(min=1)
        mask = order < counts[:, None]
    else:
        mask = (scores < ratio[:, None]) | (order == 0)
    return (mask & is_open).view_as(kept)


def prepare(
    spec: DistillSpec,
    space: TokenSpace,
    losses: Losses,
    conditions: Callable[[int], Cond],
    source: Source,
) -> Prepared:
    """Draw all that Python decides of a step of one pass, in the order in which it does."""
    source, count = on_host(source), spec.train.batch_size
    shape = (count, space.length, space.groups)
    remasking = Remasking(spec.masking, space.mask_id)

    def start() -> PreparedStart:
        ratio = draw_mask_ratio(spec.init.mask_ratio, source)
        cond = conditions(count)
        return PreparedStart(cond, draw_mask(shape, torch.full((count,), ratio), source))

    starts, asked = [start()], losses.prepare_ask(count)
    drawn: list[tuple[Tensor, Tensor]] = []
    for which in range(1 + spec.auxiliary.updates if losses.masked else 0):
        if which == 1 and spec.auxiliary.share_x_tilde:
            drawn.append(drawn[0])  # the student's, which nobody draws again
            continue
        if which and spec.auxiliary.fresh_samples:
            starts.append(start())
        ratio = remasking.ratios(which, count, source)
        drawn.append((ratio, draw_mask(shape, ratio, source, remasking.is_exact)))
    asked = [a | b for a, b in zip(asked, losses.prepare_follow(count), strict=True)]
    if not drawn:
        return Prepared(starts, torch.empty(0), torch.empty(0), asked)
    ratios, masks = zip(*drawn, strict=True)
    return Prepared(starts, torch.stack(ratios), torch.stack(masks), asked)
