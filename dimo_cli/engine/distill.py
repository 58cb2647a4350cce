"""Di[M]O (Algorithm 1): one student update, then the auxiliary's, on the student's own tokens.

Teacher phi and auxiliary psi look at x_tilde, the student's tokens masked again. Their divergence
has a gradient at the logits (Eq. 7) that is handed to the student as if x_tilde were x_init.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dimo_cli.engine.auxiliary import IGNORED, anchored_loss, auxiliary_loss
from dimo_cli.engine.calibrated import calibrated_weights, check_calibrated, monitor_of
from dimo_cli.engine.divergence import entropy_logit_gradient, surrogate_loss
from dimo_cli.engine.draws import (
    Rows,
    chunks,
    host_generator,
    on_host,
    own_generator,
    samples_among,
)
from dimo_cli.engine.field import TeacherLogits, guided, log_probs
from dimo_cli.engine.heads import HeadRows, backward_through_head, backward_to_hidden
from dimo_cli.engine.lora import trained_part
from dimo_cli.engine.losses import Losses
from dimo_cli.engine.masking import Mask, check_control, draw_mask, draw_ratio, initial_tokens
from dimo_cli.engine.objective import (
    Asked,
    Generation,
    MaskedRows,
    Objective,
    SharedMask,
    StepReport,
)
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.engine.one_step import draw_from_hidden, rows_at_once, student_hidden
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.prepared import Prepared
from dimo_cli.engine.roles import start_of
from dimo_cli.engine.schedules import draw_mask_ratio, guidance_scale, noise_sigma
from dimo_cli.engine.share import Share, divide, halved, local_train, mean_over_ranks
from dimo_cli.engine.verdict import Verdict
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.divergences import AdaptiveWeight, CalibratedWeight
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher, moved


def needed(name: str, found: Tensor | None) -> Tensor:
    """What a network says, which is there if an objective has said that it needs it."""
    if found is None:
        raise TypeError(f"an objective asks for the {name}, which its `needs` do not name")
    return found


class Distillation:
    """The networks and the step of Algorithm 1. The loop around it is `trainer.py`."""

    follows_norms = False
    """Whether norms are logged also where there is one loss."""

    def __init__(
        self,
        teacher: Teacher,
        spec: DistillSpec,
        generator: torch.Generator,
        autocast: Callable[[], AbstractContextManager[None]],
        share: Share | None = None,
        objectives: Sequence[Objective] | None = None,
        relax: RelaxSpec | None = None,
    ) -> None:
        """A new run: student and auxiliary start as copies of the teacher.

        `share` is what this rank computes of each step, and `spec` says how much that is.
        `objectives` are the run's losses in the order in which they draw; None: those of `spec`.
        `relax` says how gradients get through tokens for those that need it.
        """
        check_control(teacher.space, spec.init.control, spec.init.control_token)
        self.teacher, self.spec, self.autocast = teacher, spec, autocast
        self.share = share or divide(spec.train)
        self.run_generator, self.host = generator, host_generator(generator)
        self.streams: list[Rows] = self.share.streams(generator, self.host)
        self.generator = self.streams[0]
        named = named_objectives(spec) if objectives is None else objectives
        if isinstance(spec.loss.weight, CalibratedWeight):
            check_calibrated(spec.masking)
        self.losses = Losses(named, relax, self.follows_norms)
        on_card = generator.device.type != "cpu"
        self.chunk_tokens = spec.loss.chunk_tokens or rows_at_once(teacher.space, on_card)
        teacher.backbone.train(spec.train.dropout)
        self.student = start_of(teacher, spec, "student")
        # Where nothing needs an auxiliary, none takes up memory: its place is held by the student.
        self.auxiliary = self.student
        if self.uses_auxiliary:
            self.auxiliary = start_of(teacher, spec, "auxiliary")
        steps = spec.train.steps
        self.student_optimizer = NetworkOptimizer(self.student, spec.student.optimizer, steps)
        if self.uses_auxiliary:
            rates = spec.auxiliary.optimizer
            self.auxiliary_optimizer = NetworkOptimizer(self.auxiliary, rates, steps)
        self.verdict = Verdict(generator.device)
        self.null: Cond | None = None
        self.prepared: Prepared | None = None
        """What to take in place of the host's draws."""
        self.losses.attach(self)
        slots = teacher.space.length * teacher.space.groups
        self.monitor = monitor_of(spec, slots, self.losses.anchor) if self.uses_auxiliary else None
        self.nats: Tensor | None = None
        """Of the last pass that was measured: the student's KL to the teacher per token."""

    def step(self, step: int, measure: bool = False) -> StepReport:
        """Update the student once, then the auxiliary; `measure` also fills the slower numbers."""
        self.losses.begin(step)
        generations, paid = [], []
        self.streams = self.share.streams(self.run_generator, self.host)
        self.verdict.begin()
        for index in range(self.spec.train.accumulate):
            self.turn_to(index)
            generation = self.generate(step, measure)
            divergence, reuse = self.backward_student(generation, measure)
            generations.append(generation)
            # At once: kept, the auxiliary's graphs of all passes would be in memory together.
            paid.append(
                self.backward_auxiliary(generation, reuse.mask, reuse.hidden, reuse.teacher)
                if reuse
                else None
            )
            del reuse
            self.keep_logits(generation)
        norm = self.student_optimizer.update(step, unless=self.verdict.found_inf)
        if self.verdict.refuses("student", norm):
            if any(loss is not None for loss in paid):
                self.auxiliary_optimizer.forget()
            return StepReport({"student_gradient": norm.item()}, skipped="student")
        losses = []
        for update in range(self.spec.auxiliary.updates if self.uses_auxiliary else 0):
            loss, aux_norm = self.update_auxiliary(step, update, generations, paid)
            if self.verdict.refuses("auxiliary", loss, aux_norm):
                return StepReport({"auxiliary_loss": loss.item()}, skipped="auxiliary")
            losses.append(loss)
        others = self.losses.follow(step, measure, self.share)
        if others.skipped:
            return others
        self.verdict.end()
        if not measure:
            return StepReport({})
        assert generation.entropy is not None
        assert generation.top1 is not None
        values = {
            "entropy": generation.entropy.item(),
            "top1": generation.top1.item(),
            "student_gradient": norm.item(),
            **others.values,
        }
        if losses:
            auxiliary = torch.stack(losses).mean().item()
            values |= {
                "divergence": divergence.item(),
                "auxiliary_loss": auxiliary,
                "auxiliary_gap": auxiliary - values["entropy"],
                "auxiliary_gradient": aux_norm.item(),
            }
            if self.nats is not None:
                values["teacher_kl"] = self.nats.item()
        return StepReport(values)

    def reseed(self, seed: int) -> None:
        """Draw other numbers from now on."""
        for generator in (self.run_generator, self.host):
            generator.manual_seed(seed)

    def turn_to(self, index: int) -> None:
        """Draw from now on for one of this rank's passes."""
        self.generator = self.streams[index]

    @property
    def uses_auxiliary(self) -> bool:
        """Whether any objective has a use for one."""
        return self.losses.use_auxiliary

    def draw_conditions(self, count: int) -> Cond:
        """The conditions of a batch: those of an objective's data, or drawn."""
        cond = self.losses.conditions(count)
        if cond is not None:
            return cond
        source = on_host(self.generator)
        total, rows = samples_among(count, source)
        return self.teacher.conditioner.draw_rows(total, own_generator(source), rows)

    def log(self, name: str, value: Tensor) -> None:
        """Remember a number for the log; it is read when a step is measured."""
        self.losses.seen[name] = value

    def norm(self, name: str) -> Tensor:
        """The running norm of what an objective asks of the logits; `distill`: all masked ones."""
        assert self.losses.norms is not None
        return self.losses.norms.of(name)

    def suspects(self) -> list[str]:
        """What was seen in the last step that is not finite and may be why others are not."""
        return self.losses.suspects()

    def state(self) -> dict[str, float]:
        """Running numbers that decide how training goes on, beside networks and optimizers."""
        return self.losses.state()

    def load_state(self, state: dict[str, float]) -> None:
        """Continue from `state`."""
        self.losses.load_state(state)

    def cut_passes(self) -> None:
        """From now on, passes of half as many samples; what was begun is forgotten."""
        self.share = halved(self.share)
        train = local_train(self.spec.train, self.share)
        self.spec = self.spec.model_copy(update={"train": train})
        for optimizer in self.optimizers().values():
            optimizer.forget()

    def backbones(self) -> list[Backbone]:
        """Every network of the teacher's kind that a step runs."""
        more = self.losses.backbones()
        return [self.teacher.backbone, self.student, self.auxiliary, *more]

    def networks(self) -> dict[str, nn.Module]:
        """The networks whose weights change, as far as they do."""
        auxiliary = {"auxiliary": trained_part(self.auxiliary)} if self.uses_auxiliary else {}
        return {"student": trained_part(self.student), **auxiliary, **self.losses.networks()}

    def optimizers(self) -> dict[str, NetworkOptimizer]:
        """Their optimizers."""
        auxiliary = {"auxiliary": self.auxiliary_optimizer} if self.uses_auxiliary else {}
        return {"student": self.student_optimizer, **auxiliary, **self.losses.optimizers()}

    def generate(self, step: int, measure: bool = False, gradients: bool = True) -> Generation:
        """x_init -> x_theta in one pass of the student, which keeps its graph for the update."""
        init, count = self.spec.init, self.spec.train.batch_size
        sigma = noise_sigma(init.embed_noise, step)
        ratio, mask = 0.0, None
        if self.prepared is not None:
            cond, mask = self.prepared.cond, self.prepared.init_mask
        else:
            ratio = draw_mask_ratio(init.mask_ratio, self.generator)
            cond = self.draw_conditions(count).to(self.generator.device)
        x_init, init_mask = initial_tokens(
            self.teacher.space,
            count,
            ratio,
            self.generator,
            init.control,
            init.control_token,
            self.teacher.tokenizer,
            mask=mask,
        )
        gradients = gradients and self.spec.loss.student_input == "x_init"
        with self.autocast(), torch.set_grad_enabled(gradients):
            hidden = student_hidden(self.student, x_init, cond, sigma, self.generator)
            drawn = draw_from_hidden(
                self.student,
                hidden,
                self.generator,
                chunk_tokens=self.chunk_tokens,
                measure=measure,
            )
        return Generation(cond, init_mask, sigma, hidden, drawn.tokens, drawn.entropy, drawn.top1)

    def backward_student(
        self, generation: Generation, measure: bool
    ) -> tuple[Tensor, SharedMask | None]:
        """Give the student what all losses ask, in one backward pass (Eq. 7 and 10).

        Returns the mean divergence for the log.
        """
        soft = self.soft_gradient(generation) if self.losses.soft else None
        if not self.losses.masked:
            generation.hidden.backward(soft)
            return torch.zeros((), device=generation.tokens.device), None
        asked = self.ask_of_student(generation, measure)
        asked.hidden.backward(asked.gradient if soft is None else asked.gradient + soft)
        return asked.divergence, asked.reuse

    def soft_gradient(self, generation: Generation) -> Tensor:
        """What losses of relaxed tokens ask of hidden states [B, L, D]; the head gets its share."""
        leaf = generation.hidden.detach().requires_grad_()
        with self.autocast():
            logits = self.student.head(leaf).float()
            flat = logits.detach().requires_grad_()
            total = self.losses.ask_soft(generation, flat, self.generator)
            logits.backward(total / self.spec.train.accumulate)
        assert leaf.grad is not None
        return leaf.grad

    def ask_of_student(self, generation: Generation, measure: bool) -> Asked:
        """Eq. 7 as far as the student's hidden states; what teacher and auxiliary saw ends here.

        So it is gone when the student's own graph is at its largest.
        """
        mask_ratio, x_tilde, mask = self.draw_x_tilde(generation.tokens, 0)
        with self.autocast():
            seen = self.embeds(self.teacher.backbone, generation, x_tilde, mask.slots)
            teacher_logits = self.teacher_logits(seen, generation.cond, mask_ratio)
            aux_hidden, shares = None, self.spec.auxiliary.share_x_tilde
            if self.uses_auxiliary:
                with torch.set_grad_enabled(shares):
                    seen = self.embeds(self.auxiliary, generation, x_tilde, mask.slots)
                    aux_hidden = self.hidden(self.auxiliary, seen, generation.cond)
            del seen
            hidden = self.hidden_at_x_tilde(generation, x_tilde)
        rows, passes = mask.rows, self.spec.train.accumulate
        with self.autocast():
            weight = self.sample_weights(generation, hidden, teacher_logits, mask.slots)
        look = self.looking_at(generation, mask, weight, teacher_logits, aux_hidden)
        divergence = torch.zeros((), device=rows.device)
        nats = torch.zeros((), dtype=torch.float64, device=rows.device)

        def loss_of(head: HeadRows, part: slice) -> Tensor:
            nonlocal divergence, nats
            logits = head.logits() if self.losses.see_student else None
            seen = look(part, logits)
            if measure and self.monitor is not None:
                nats += self.monitor.sums(seen)
            gradient, value = self.losses.ask_masked(seen, measure, passes)
            if value is not None:
                divergence += (value * seen.slots).sum()
            if logits is not None:
                return surrogate_loss(logits, gradient)
            return head.surrogate_loss(gradient)

        with self.autocast():
            if self.spec.loss.entropy_bonus:
                self.backward_entropy_bonus(hidden)
            _, gradient = backward_to_hidden(self.student, hidden, rows, self.chunk_tokens, loss_of)
        reuse = None
        if measure and self.monitor is not None:
            self.nats = nats / len(mask.slots)
        if shares and aux_hidden is not None:
            reuse = SharedMask(mask, aux_hidden, teacher_logits)
        return Asked(hidden, gradient, divergence / mask.slots.sum(), reuse)

    def looking_at(
        self,
        generation: Generation,
        mask: Mask,
        weight: Tensor,
        teacher: Callable[[Tensor], TeacherLogits],
        aux_hidden: Tensor | None,
    ) -> Callable[[slice, Tensor | None], MaskedRows]:
        """What objectives are shown of a chunk of masked positions and the student's logits there.

        `weight` [B] is that of each sample; aux_hidden [B, L, D] what the auxiliary made.
        """
        length, rows = self.teacher.space.length, mask.rows
        sample = rows.div(length, rounding_mode="floor")
        slots = mask.slots.flatten(0, 1)[rows]
        scale = (slots * weight[sample][:, None])[..., None]
        temperatures = self.spec.loss.teacher_temperature, self.spec.loss.auxiliary_temperature

        aux_flat = None if aux_hidden is None else aux_hidden.detach().flatten(0, 1)

        def auxiliary_logits(here: Tensor) -> Tensor:
            logits: Tensor = self.auxiliary.head(needed("auxiliary", aux_flat)[here], here % length)
            return logits

        def look(part: slice, logits: Tensor | None) -> MaskedRows:
            here = rows[part]
            return MaskedRows(
                teacher=lambda: teacher(here),
                auxiliary=lambda: auxiliary_logits(here),
                student=lambda: needed("student", logits).detach().clone(),
                tokens=lambda: generation.tokens.flatten(0, 1)[here],
                slots=slots[part],
                masked=lambda: mask.slots.flatten(1).sum(-1)[sample[part]],
                scale=scale[part],
                temperatures=temperatures,
            )

        return look

    def update_auxiliary(
        self,
        step: int,
        update: int,
        generations: list[Generation],
        paid: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Train the auxiliary on the student's tokens (Eq. 1); returns loss and gradient norm.

        `paid` are the losses that the student's update has backpropagated already.
        """
        losses = []
        for index, generation in enumerate(generations):
            done = paid[index] if update == 0 else None
            if done is not None:
                losses.append(done)
                continue
            self.turn_to(index)
            if self.spec.auxiliary.fresh_samples:
                generation = self.generate(step, gradients=False)
            ratio, x_tilde, mask = self.draw_x_tilde(generation.tokens, 1 + update)
            teacher = None
            with self.autocast():
                if self.losses.anchor:
                    seen = self.embeds(self.teacher.backbone, generation, x_tilde, mask.slots)
                    teacher = self.teacher_logits(seen, generation.cond, ratio)
                seen = self.embeds(self.auxiliary, generation, x_tilde, mask.slots)
                hidden = self.hidden(self.auxiliary, seen, generation.cond)
            losses.append(self.backward_auxiliary(generation, mask, hidden, teacher))
        loss, masked = mean_over_ranks(list(torch.stack(losses).mean(0)))
        norm = self.auxiliary_optimizer.update(step, 1 / masked, self.verdict.found_inf)
        return loss / masked, norm

    def backward_auxiliary(
        self,
        generation: Generation,
        mask: Mask,
        hidden: Tensor,
        teacher: Callable[[Tensor], TeacherLogits] | None = None,
    ) -> Tensor:
        """Backpropagate the sum of the loss over masked slots, in units of all slots of a step.

        Returns that sum and the share of masked slots [2]. Their ratio is the mean loss; it is
        taken over the whole step, so that no pass and no rank counts more than another.
        """
        spec = self.spec.auxiliary
        rows, masked = mask.rows, mask.slots
        targets = generation.tokens.masked_fill(~masked, IGNORED).flatten(0, 1)[rows]
        slots = masked.numel() * self.spec.train.accumulate
        anchors: list[Tensor] = []

        def loss_of(head: HeadRows, part: slice) -> Tensor:
            soft_target = None
            if spec.soft_weight:
                soft_target = self.student_logits(generation, rows[part]).flatten(0, 1)
            logits = head.logits().flatten(0, 1)
            loss = auxiliary_loss(
                logits,
                targets[part].flatten(),
                soft_target,
                spec.soft_weight,
                spec.soft_temperature,
                spec.label_smoothing,
            )
            if not self.losses.anchor or teacher is None:
                return loss.total / slots
            anchored = self.anchored_loss(logits, teacher(rows[part]), targets[part]) / slots
            anchors.append(anchored.detach())
            return loss.total / slots + anchored

        with self.autocast():
            total = backward_through_head(self.auxiliary, hidden, rows, self.chunk_tokens, loss_of)
        if anchors:  # what is logged is how well it knows the student
            total = total - torch.stack(anchors).sum()
        return torch.stack([total * self.spec.train.accumulate, masked.float().mean()])

    def anchored_loss(self, logits: Tensor, teacher: TeacherLogits, targets: Tensor) -> Tensor:
        """The auxiliary's cross-entropy to the teacher over masked slots, times its weight."""
        with torch.no_grad():
            phi = log_probs(guided(teacher), self.spec.loss.teacher_temperature).exp().flatten(0, 1)
        losses = anchored_loss(logits.float().log_softmax(-1), phi)
        return self.losses.anchor * losses.masked_fill(targets.flatten() == IGNORED, 0).sum()

    @torch.no_grad()
    def student_logits(self, generation: Generation, rows: Tensor) -> Tensor:
        """Logits [n, G, V] that the student had at flat rows [n] of a pass."""
        if generation.logits is not None:
            return generation.logits[rows]
        flat = generation.hidden.detach().flatten(0, 1)
        return self.student.head(flat[rows], rows % self.teacher.space.length)

    def keep_logits(self, generation: Generation) -> None:
        """Keep a pass's logits if the auxiliary is to learn of it when the head has changed."""
        auxiliary = self.spec.auxiliary
        is_soft = bool(auxiliary.soft_weight) or self.spec.masking.content == "soft"
        all_paid = auxiliary.share_x_tilde and auxiliary.updates == 1
        if self.uses_auxiliary and is_soft and not (auxiliary.fresh_samples or all_paid):
            B, L, _ = generation.hidden.shape
            with self.autocast():
                rows = torch.arange(B * L, device=generation.hidden.device)
                generation.logits = self.student_logits(generation, rows)

    def draw_x_tilde(self, tokens: Tensor, which: int) -> tuple[Tensor, Tensor, Mask]:
        """Mask ratios [B], x_tilde and its mask: for the student (0), or an auxiliary update."""
        if self.prepared is None:
            ratio = self.draw_ratio(self.schedule_of(which), len(tokens))
            return ratio, *self.mask_again(tokens, ratio)
        slots = self.prepared.masks[which]
        everywhere = torch.arange(tokens.shape[0] * tokens.shape[1], device=tokens.device)
        x_tilde = tokens.masked_fill(slots, self.teacher.space.mask_id)
        return self.prepared.ratios[which], x_tilde, Mask(slots, everywhere)

    def schedule_of(self, which: int) -> str:
        """The mask schedule of the student's update (0), or of the auxiliary's."""
        return self.spec.masking.auxiliary if which else self.spec.masking.student

    def prepare(self) -> Prepared:
        """Draw all that Python decides of the next step, which has one pass, in its order."""
        spec, space = self.spec, self.teacher.space
        source, count = on_host(self.generator), spec.train.batch_size
        shape = (count, space.length, space.groups)
        init_ratio = draw_mask_ratio(spec.init.mask_ratio, source)
        cond = self.draw_conditions(count)
        init_mask = draw_mask(shape, torch.full((count,), init_ratio), source)
        exact = spec.masking.method == "exact"
        drawn: list[tuple[Tensor, Tensor]] = []
        for which in range(1 + spec.auxiliary.updates):
            if which == 1 and spec.auxiliary.share_x_tilde:
                drawn.append(drawn[0])  # the student's, which nobody draws again
                continue
            ratio = self.draw_ratio(self.schedule_of(which), count)
            drawn.append((ratio, draw_mask(shape, ratio, source, exact)))
        ratios, masks = zip(*drawn, strict=True)
        return Prepared(cond, init_mask, torch.stack(ratios), torch.stack(masks))

    def draw_ratio(self, schedule: str, count: int) -> Tensor:
        """Mask ratios r_t [B] within the limits of the spec."""
        masking = self.spec.masking
        return draw_ratio(schedule, count, self.generator, masking.lowest, masking.highest)

    def mask_again(self, tokens: Tensor, ratio: Tensor) -> tuple[Tensor, Mask]:
        """x_tilde ~ q(. | x_theta) and its mask."""
        exact = self.spec.masking.method == "exact"
        mask = Mask.of(draw_mask(tokens.shape, ratio, self.generator, exact), tokens.device)
        return tokens.masked_fill(mask.slots, self.teacher.space.mask_id), mask

    def hidden(self, backbone: Backbone, embeds: Tensor, cond: Cond) -> Tensor:
        """Hidden states of embeddings without noise: how teacher and auxiliary see x_tilde."""
        hidden = backbone.hidden(embeds, cond)
        assert isinstance(hidden, Tensor)
        return hidden

    def embeds(
        self, backbone: Backbone, generation: Generation, x_tilde: Tensor, mask: Tensor
    ) -> Tensor:
        """x_tilde [B, L, D] for a backbone: of tokens, or of the student's probabilities (I.15)."""
        if self.spec.masking.content == "tokens":
            return backbone.embed(x_tilde)
        B, L, _ = generation.hidden.shape
        slots, rows = mask.flatten(0, 1), torch.arange(B * L, device=mask.device)
        parts = []
        for part in chunks(B * L, self.chunk_tokens):
            probs = self.student_logits(generation, rows[part]).float().softmax(-1)
            # A sum over thousands of small probabilities is not for half precision.
            with torch.autocast(mask.device.type, enabled=False):
                parts.append(backbone.embed_probs(probs[:, None], slots[part][:, None]).squeeze(1))
        return torch.cat(parts).unflatten(0, (B, L))

    def hidden_at_x_tilde(self, generation: Generation, x_tilde: Tensor) -> Tensor:
        """The student's stand-in for z_theta(x_tilde): one of the three of Fig. 12."""
        if self.spec.loss.student_input == "x_init":
            return generation.hidden
        tokens = x_tilde
        if self.spec.loss.student_input == "x_tilde_init":
            tokens = generation.tokens.masked_fill(generation.init_mask, self.teacher.space.mask_id)
        return student_hidden(
            self.student, tokens, generation.cond, generation.sigma, self.generator
        )

    @torch.no_grad()
    def teacher_logits(
        self, embeds: Tensor, cond: Cond, mask_ratio: Tensor
    ) -> Callable[[Tensor], TeacherLogits]:
        """One teacher pass over x_tilde; the result projects flat rows [n] to logits."""
        backbone, length = self.teacher.backbone, self.teacher.space.length
        guidance = self.spec.teacher.guidance
        if guidance.needs_null:
            scale = moved(guidance_scale(guidance, mask_ratio), embeds.device)
            null = self.null_conditions(len(cond), embeds.device)
            embeds = torch.cat([embeds, embeds])
            cond = Cond.cat([backbone.prepared(cond), null])
        flat = self.hidden(backbone, embeds, cond).flatten(0, 1)

        @torch.no_grad()
        def project(rows: Tensor) -> TeacherLogits:
            conditional = backbone.head(flat[rows], rows % length)
            if not guidance.needs_null:
                return TeacherLogits(conditional)
            unconditional = backbone.head(flat[rows + len(flat) // 2], rows % length)
            s = scale[rows.div(length, rounding_mode="floor")][:, None, None]
            return TeacherLogits(conditional, unconditional, s)

        return project

    def null_conditions(self, count: int, device: torch.device) -> Cond:
        """The unconditional half of guidance, brought to the device once."""
        if self.null is None:
            null = self.teacher.conditioner.null(1).to(device)
            self.null = self.teacher.backbone.prepared(null)
        return self.null.times(count)

    def sample_weights(
        self,
        generation: Generation,
        hidden: Tensor,
        teacher_logits: Callable[[Tensor], TeacherLogits],
        mask: Tensor,
    ) -> Tensor:
        """w(t) of each sample times the factor of the reduction, [B]."""
        space, loss = self.teacher.space, self.spec.loss
        factor = torch.full(
            (len(mask),),
            1 / (len(mask) * self.spec.train.accumulate),
            device=mask.device,
        )
        if loss.reduction == "mean":
            factor = factor / (space.length * space.groups * space.vocab)
        elif loss.reduction == "masked_mean":
            factor = factor / mask.flatten(1).sum(-1)
        if isinstance(loss.weight, CalibratedWeight):
            slots = space.length * space.groups
            weights = moved(calibrated_weights(self.spec.masking.student, slots), mask.device)
            return factor * weights[mask.flatten(1).sum(-1) - 1].to(factor.dtype)
        if isinstance(loss.weight, AdaptiveWeight):
            gap = self.probability_gap(hidden, teacher_logits)
            return factor / gap.clamp(min=loss.weight.floor)
        return factor * loss.weight.value

    @torch.no_grad()
    def probability_gap(
        self, hidden: Tensor, teacher_logits: Callable[[Tensor], TeacherLogits]
    ) -> Tensor:
        """Mean |p_theta(x_init) - p_phi(x_tilde)| of each sample over positions and ids, [B]."""
        B, L, _ = hidden.shape
        flat, rows = hidden.detach().flatten(0, 1), torch.arange(B * L, device=hidden.device)
        gaps = []
        for part in chunks(B * L, self.chunk_tokens):
            student = self.student.head(flat[part], rows[part] % L).float().softmax(-1)
            teacher = guided(teacher_logits(rows[part])).div(self.spec.loss.teacher_temperature)
            gaps.append((student - teacher.softmax(-1)).abs().mean((-1, -2)))
        return torch.cat(gaps).view(B, L).mean(-1)

    def backward_entropy_bonus(self, hidden: Tensor) -> None:
        """Raise the entropy of p_theta(x_init) (supplement E.14), reduced like the divergence."""
        B, L, _ = hidden.shape
        divisor = {
            "sum": 1,
            "masked_mean": L * self.teacher.space.groups,
            "mean": L * self.teacher.space.groups * self.teacher.space.vocab,
        }[self.spec.loss.reduction]
        scale = self.spec.loss.entropy_bonus / (B * self.spec.train.accumulate * divisor)

        def loss_of(head: HeadRows, part: slice) -> Tensor:
            found = head.logits().float()
            return surrogate_loss(found, -scale * entropy_logit_gradient(found.detach()))

        rows = torch.arange(B * L, device=hidden.device)
        graph_kept = hidden.detach().requires_grad_()
        backward_through_head(self.student, graph_kept, rows, self.chunk_tokens, loss_of)
        assert graph_kept.grad is not None
        hidden.backward(graph_kept.grad, retain_graph=True)
