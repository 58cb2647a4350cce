"""The student's update: what all losses ask of one of its passes, in one backward pass.

Teacher and auxiliary look at x_tilde, the student's tokens masked again. What they say at its
masked positions gives a gradient at the student's logits there (Eq. 7), in closed form and chunk by
chunk; losses of relaxed tokens ask of all its logits (Eq. 10).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dimo_cli.engine.calibrated import KlMonitor
from dimo_cli.engine.entropy_bonus import ask_entropy_bonus
from dimo_cli.engine.field import TeacherAt
from dimo_cli.engine.heads import HeadRows, backward_to_hidden
from dimo_cli.engine.masked_view import MaskedView
from dimo_cli.engine.masking import Mask
from dimo_cli.engine.objective import Asked, Generation, SharedMask
from dimo_cli.engine.one_step import student_hidden
from dimo_cli.engine.updating import Updating
from dimo_cli.engine.weighting import probability_gap, sample_weights


class Watched(Updating, Protocol):
    """A run whose KL to the teacher may be measured."""

    monitor: KlMonitor | None


class StudentUpdate:
    """How the student learns of what it drew."""

    def __init__(self, run: Watched) -> None:
        self.run = run
        self.nats: Tensor | None = None
        """Of the last pass that was measured: the student's KL to the teacher per token."""

    def backward(self, generation: Generation, measure: bool) -> tuple[Tensor, SharedMask | None]:
        """Give the student what all losses ask, in one backward pass (Eq. 7 and 10).

        Returns the mean divergence for the log.
        """
        losses = self.run.losses
        soft = self.soft_gradient(generation) if losses.soft else None
        if not losses.masked:
            generation.hidden.backward(soft)
            return torch.zeros((), device=generation.tokens.device), None
        asked = self.ask(generation, measure)
        asked.hidden.backward(asked.gradient if soft is None else asked.gradient + soft)
        return asked.divergence, asked.reuse

    def soft_gradient(self, generation: Generation) -> Tensor:
        """What losses of relaxed tokens ask of hidden states [B, L, D]; the head gets its share."""
        run = self.run
        leaf = generation.hidden.detach().requires_grad_()
        with run.autocast():
            logits = run.student.head(leaf).float()
            flat = generation.settled_everywhere(logits.detach()).requires_grad_()
            total = run.losses.ask_soft(generation, flat, run.generator)
            if generation.kept is not None:
                total = total.masked_fill(generation.kept[..., None], 0)
            logits.backward(total / run.spec.train.accumulate)
        assert leaf.grad is not None
        return leaf.grad

    def ask(self, generation: Generation, measure: bool) -> Asked:
        """Eq. 7 as far as the student's hidden states; what teacher and auxiliary saw ends here.

        So it is gone when the student's own graph is at its largest.
        """
        run, loss = self.run, self.run.spec.loss
        drawn = generation.tokens, 0, generation.kept, generation.still_open
        mask_ratio, x_tilde, mask = run.draw_x_tilde(*drawn)
        with run.autocast():
            seen = run.embeds(run.teacher.backbone, generation, x_tilde, mask.slots)
            teacher = run.teacher_logits(seen, generation.cond, mask_ratio)
            auxiliary = self.auxiliary_hidden(generation, x_tilde, mask)
            del seen
            hidden = self.hidden_at_x_tilde(generation, x_tilde)
        with run.autocast():
            weight = self.sample_weights(hidden, teacher, mask.slots, generation.still_open)
        temperatures = loss.teacher_temperature, loss.auxiliary_temperature
        looks = teacher, run.auxiliary, auxiliary, temperatures
        view = MaskedView(generation.tokens, mask, weight, *looks, generation.kept)
        asking = Asking(run, generation, view, measure)
        gradient = asking.gradient(hidden)
        if measure and run.monitor is not None:
            self.nats = asking.nats / len(mask.slots)
        reuse = None
        if run.spec.auxiliary.share_x_tilde and auxiliary is not None:
            reuse = SharedMask(mask, auxiliary, teacher)
        return Asked(hidden, gradient, asking.divergence / mask.slots.sum(), reuse)

    def auxiliary_hidden(
        self, generation: Generation, x_tilde: Tensor, mask: Mask
    ) -> Tensor | None:
        """What the auxiliary makes of x_tilde, with a graph where its own update uses it too."""
        run = self.run
        if not run.uses_auxiliary:
            return None
        with torch.set_grad_enabled(run.spec.auxiliary.share_x_tilde):
            seen = run.embeds(run.auxiliary, generation, x_tilde, mask.slots)
            return run.hidden(run.auxiliary, seen, generation.cond)

    def hidden_at_x_tilde(self, generation: Generation, x_tilde: Tensor) -> Tensor:
        """The student's stand-in for z_theta(x_tilde): one of the three of Fig. 12."""
        run = self.run
        if run.spec.loss.student_input == "x_init":
            return generation.hidden
        tokens = x_tilde
        if run.spec.loss.student_input == "x_tilde_init":
            tokens = generation.tokens.masked_fill(generation.init_mask, run.teacher.space.mask_id)
        seen = generation.cond, generation.sigma, run.generator
        return student_hidden(run.student, tokens, *seen)

    def sample_weights(
        self, hidden: Tensor, teacher: TeacherAt, mask: Tensor, still_open: int = 0
    ) -> Tensor:
        """What each sample's gradient is multiplied by, [B], where it is masked so."""
        run = self.run

        def gap() -> Tensor:
            temperature = run.spec.loss.teacher_temperature
            return probability_gap(run.student, hidden, teacher, temperature, run.chunk_tokens)

        weights = sample_weights(run.spec, run.teacher.space, mask, gap, still_open)
        return run.losses.weigh(weights)


class Asking:
    """What losses of masked tokens ask of a pass, and what is measured of it on the way."""

    def __init__(
        self,
        run: Watched,
        generation: Generation,
        view: MaskedView,
        measure: bool,
    ) -> None:
        self.run, self.generation, self.view, self.measure = run, generation, view, measure
        device = view.mask.rows.device
        self.divergence = torch.zeros((), device=device)
        """Summed over masked slots."""
        self.nats = torch.zeros((), dtype=torch.float64, device=device)

    def gradient(self, hidden: Tensor) -> Tensor:
        """The gradient at hidden states [B, L, D]; the head gets its own on the way."""
        run, mask, generation = self.run, self.view.mask, self.generation
        credit, weight = run.losses.credit, self.view.weight
        if credit is not None:
            credit.begin_pass(len(weight), mask.rows.device)
        with run.autocast():
            gradient = backward_to_hidden(
                run.student, hidden, mask.rows, run.chunk_tokens, self.of_rows
            )
            if run.spec.loss.entropy_bonus:
                space, kept = run.teacher.space, generation.kept
                seen = (hidden, run.spec, space, run.chunk_tokens, kept)
                gradient = gradient + ask_entropy_bonus(run.student, *seen)
            if credit is not None:
                advantage = credit.advantage(mask, weight, run.spec.train.accumulate)
                args = (generation.tokens, mask, advantage, run.chunk_tokens)
                gradient = gradient + credit.ask(run.student, hidden, *args)
        return gradient

    def of_rows(self, head: HeadRows, part: slice) -> Tensor:
        """The gradient at the logits of some masked rows."""
        run, losses, mask = self.run, self.run.losses, self.view.mask
        logits = head.logits() if losses.see_student else None
        seen = self.view.rows(part, logits)
        if self.measure and run.monitor is not None:
            self.nats += run.monitor.sums(seen, self.generation.still_open)
        if losses.credit is not None:
            samples = mask.rows[part].div(mask.slots.shape[1], rounding_mode="floor")
            losses.credit.see(seen, samples)
        gradient, value = losses.ask_masked(seen, self.measure, run.spec.train.accumulate)
        if value is not None:
            self.divergence += (value * seen.slots).sum()
        return gradient
