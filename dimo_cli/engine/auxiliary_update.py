"""The auxiliary's update: it learns the tokens that the student has drawn (Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dimo_cli.engine.auxiliary import IGNORED, auxiliary_loss, soft_target_gradient
from dimo_cli.engine.field import TeacherAt, TeacherLogits, guided, log_probs
from dimo_cli.engine.heads import HeadRows, backward_through_head
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.objective import Generation
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.share import mean_over_ranks
from dimo_cli.engine.updating import Updating


class WithAuxiliary(Updating, Protocol):
    """A run whose auxiliary learns."""

    auxiliary_optimizer: NetworkOptimizer

    def student_logits(self, generation: Generation, rows: Tensor) -> Tensor:
        """Logits [n, G, V] that the student had at flat rows [n] of a pass."""


class AuxiliaryUpdate:
    """How psi follows the student."""

    def __init__(self, run: WithAuxiliary) -> None:
        self.run = run

    def update(
        self,
        step: int,
        update: int,
        generations: list[Generation],
        paid: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Train the auxiliary on the student's tokens (Eq. 1).

        Returns the loss, the plain cross-entropy and the norm of the gradient. `paid` are the
        losses that the student's update has backpropagated already.
        """
        run, losses = self.run, []
        for index, generation in enumerate(generations):
            done = paid[index] if update == 0 else None
            if done is not None:
                losses.append(done)
                continue
            run.turn_to(index)
            if run.spec.auxiliary.fresh_samples:
                generation = run.generate(step, gradients=False)
            drawn = generation.tokens, 1 + update, generation.kept, generation.still_open
            ratio, x_tilde, mask = run.draw_x_tilde(*drawn)
            teacher = None
            with run.autocast():
                if run.losses.anchor:
                    seen = run.embeds(run.teacher.backbone, generation, x_tilde, mask.slots)
                    teacher = run.teacher_logits(seen, generation.cond, ratio)
                seen = run.embeds(run.auxiliary, generation, x_tilde, mask.slots)
                hidden = run.hidden(run.auxiliary, seen, generation.cond)
            losses.append(self.backward(generation, mask, hidden, teacher))
        loss, plain, masked = mean_over_ranks(list(torch.stack(losses).mean(0)))
        norm = run.auxiliary_optimizer.update(step, 1 / masked, run.verdict.found_inf)
        return loss / masked, plain / masked, norm

    def backward(
        self, generation: Generation, mask: Mask, hidden: Tensor, teacher: TeacherAt | None = None
    ) -> Tensor:
        """Backpropagate the sum of the loss over masked slots, in units of all slots of a step.

        Returns that sum, that of the plain cross-entropy and the share of masked slots [3]. Their
        ratios are the means; they are taken over the whole step, so that no pass and no rank counts
        more than another.
        """
        run, spec = self.run, self.run.spec.auxiliary
        rows, masked = mask.rows, mask.slots
        targets = generation.tokens.masked_fill(~masked, IGNORED).flatten(0, 1)[rows]
        slots = masked.numel() * run.spec.train.accumulate
        total = torch.zeros(2, device=rows.device)

        def ask(head: HeadRows, part: slice) -> Tensor:
            nonlocal total
            soft_target = None
            if spec.soft_weight:
                soft_target = run.student_logits(generation, rows[part]).flatten(0, 1)
            logits = head.logits()
            loss, gradient = auxiliary_loss(
                logits.detach().flatten(0, 1),
                targets[part].flatten(),
                soft_target,
                spec.soft_weight,
                spec.soft_temperature,
                spec.label_smoothing,
                1 / slots,
            )
            total = total + torch.stack([loss.total, loss.plain]) / slots
            gradient = gradient.view_as(logits)
            if run.losses.anchor and teacher is not None:
                anchored = self.anchored(logits.detach(), teacher(rows[part]), targets[part])
                gradient = gradient + anchored / slots
            return gradient

        with run.autocast():
            backward_through_head(run.auxiliary, hidden, rows, run.chunk_tokens, ask)
        sums = total * run.spec.train.accumulate
        return torch.cat([sums, masked.float().mean()[None]])

    @torch.no_grad()
    def anchored(self, logits: Tensor, teacher: TeacherLogits, targets: Tensor) -> Tensor:
        """What the cross-entropy to the teacher asks of masked slots [n, G, V], with its weight."""
        run = self.run
        phi = log_probs(guided(teacher), run.spec.loss.teacher_temperature).exp()
        gradient = soft_target_gradient(logits.float().log_softmax(-1), phi)
        return run.losses.anchor * gradient.masked_fill((targets == IGNORED)[..., None], 0)

    def keep_logits(self, generation: Generation) -> None:
        """Keep a pass's logits if the auxiliary is to learn of it when the head has changed."""
        run, auxiliary = self.run, self.run.spec.auxiliary
        is_soft = bool(auxiliary.soft_weight) or run.spec.masking.content == "soft"
        all_paid = auxiliary.share_x_tilde and auxiliary.updates == 1
        if run.uses_auxiliary and is_soft and not (auxiliary.fresh_samples or all_paid):
            B, L, _ = generation.hidden.shape
            with run.autocast():
                rows = torch.arange(B * L, device=generation.hidden.device)
                generation.logits = run.student_logits(generation, rows)
