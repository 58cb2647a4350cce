"""Di[M]O (Algorithm 1): one student update, then the auxiliary's, on the student's own tokens.

Teacher phi and auxiliary psi look at x_tilde, the student's tokens masked again. Their divergence
has a gradient at the logits (Eq. 7) that is handed to the student as if x_tilde were x_init.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dimo_cli.engine.auxiliary_update import AuxiliaryUpdate
from dimo_cli.engine.calibrated import check_calibrated, monitor_of
from dimo_cli.engine.draws import (
    Rows,
    chunks,
    host_generator,
    on_host,
    own_generator,
    samples_among,
)
from dimo_cli.engine.field import TeacherAt
from dimo_cli.engine.lora import trained_part
from dimo_cli.engine.losses import Losses
from dimo_cli.engine.masking import Mask, check_control, initial_tokens
from dimo_cli.engine.objective import (
    Generation,
    Objective,
    Seen,
    StepReport,
    Supplies,
)
from dimo_cli.engine.objectives.registry import named_objectives
from dimo_cli.engine.one_step import Drawn, draw_from_hidden, rows_at_once, student_hidden
from dimo_cli.engine.optimizer import NetworkOptimizer
from dimo_cli.engine.prepared import Prepared
from dimo_cli.engine.remasking import Remasking, prepare
from dimo_cli.engine.revealed import credit_of
from dimo_cli.engine.roles import Role, starts_of
from dimo_cli.engine.rollout import Path, Rollout, Start
from dimo_cli.engine.schedules import draw_mask_ratio, noise_sigma
from dimo_cli.engine.share import Share, divide, halved, local_train
from dimo_cli.engine.step_vectors import give_step_vectors, told_step
from dimo_cli.engine.student_update import StudentUpdate
from dimo_cli.engine.teacher_pass import TeacherPass, plain_hidden
from dimo_cli.engine.verdict import Verdict
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.divergences import CalibratedWeight
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher


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
        supplies: Supplies | None = None,
    ) -> None:
        """A new run: student and auxiliary start as copies of the teacher.

        `share` is what this rank computes of each step, and `spec` says how much that is.
        `objectives` are the run's losses in the order in which they draw; None: those of `spec`.
        `relax` says how gradients get through tokens for those that need it.
        """
        check_control(teacher.space, spec.init.control, spec.init.control_token)
        self.teacher, self.spec, self.autocast = teacher, spec, autocast
        self.share = share or divide(spec.train, least=spec.least_pass)
        self.run_generator, self.host = generator, host_generator(generator)
        self.streams: list[Rows] = self.share.streams(generator, self.host)
        self.generator = self.streams[0]
        named = named_objectives(spec) if objectives is None else objectives
        if isinstance(spec.loss.weight, CalibratedWeight):
            check_calibrated(spec.masking)
        self.supplies = supplies or Supplies()
        slots = teacher.space.length * teacher.space.groups
        credit = credit_of(spec, named, slots)
        self.losses = Losses(named, relax, self.follows_norms, credit)
        self.rollout = Rollout.of(spec.student.steps, teacher.sampler.schedule, slots)
        on_card = generator.device.type != "cpu"
        self.chunk_tokens = spec.loss.chunk_tokens or rows_at_once(teacher.space, on_card)
        teacher.backbone.train(spec.train.dropout)
        roles: list[Role] = ["student", "auxiliary"] if self.uses_auxiliary else ["student"]
        started = starts_of(teacher, spec, roles)
        self.student = started["student"]
        # Where nothing needs an auxiliary, none takes up memory: its place is held by the student.
        self.auxiliary = started.get("auxiliary", self.student)
        if self.uses_auxiliary and spec.knows_step:
            give_step_vectors(self.auxiliary, self.rollout.paths, teacher.space)
        steps = spec.train.steps
        self.student_optimizer = NetworkOptimizer(self.student, spec.student.optimizer, steps)
        if self.uses_auxiliary:
            rates = spec.auxiliary.optimizer
            self.auxiliary_optimizer = NetworkOptimizer(self.auxiliary, rates, steps)
        self.student_update, self.auxiliary_update = StudentUpdate(self), AuxiliaryUpdate(self)
        self.verdict = Verdict(generator.device)
        self.teacher_pass = TeacherPass(teacher, spec.teacher.guidance)
        self.take(None)
        self.losses.attach(self)
        self.monitor = monitor_of(spec, slots, self.losses.anchor) if self.uses_auxiliary else None

    def step(self, step: int, measure: bool = False) -> StepReport:
        """Update the student once, then the auxiliary; `measure` also fills the slower numbers."""
        return self.carry_out(step, measure).read()

    def carry_out(self, step: int, measure: bool) -> Seen:
        """The step itself, which asks a card for nothing."""
        self.losses.begin(step)
        generations, paid = [], []
        self.streams = self.share.streams(self.run_generator, self.host)
        self.verdict.begin()
        for index in range(self.spec.train.accumulate):
            self.turn_to(index)
            self.losses.backward_passes(step, measure)
            if not self.losses.at_x_init:
                continue
            generation = self.generate(step, measure)
            divergence, reuse = self.student_update.backward(generation, measure)
            generations.append(generation)
            # At once: kept, the auxiliary's graphs of all passes would be in memory together.
            paid.append(
                self.auxiliary_update.backward(generation, reuse.mask, reuse.hidden, reuse.teacher)
                if reuse
                else None
            )
            del reuse
            self.auxiliary_update.keep_logits(generation)
        norm = self.student_optimizer.update(step, unless=self.verdict.found_inf)
        if self.verdict.refuses("student", norm):
            if any(loss is not None for loss in paid):
                self.auxiliary_optimizer.forget()
            return Seen({"student_gradient": norm}, skipped="student")
        losses = []
        for update in range(self.spec.auxiliary.updates if self.uses_auxiliary else 0):
            loss, plain, aux_norm = self.auxiliary_update.update(step, update, generations, paid)
            if self.verdict.refuses("auxiliary", loss, aux_norm):
                return Seen({"auxiliary_loss": loss}, skipped="auxiliary")
            losses.append(torch.stack([loss, plain]))
        others = self.losses.follow(step, measure, self.share)
        if others.skipped:
            return others
        self.verdict.end()
        if not measure:
            return Seen()
        if not self.losses.at_x_init:
            generation = self.look(step)
        assert generation.entropy is not None
        assert generation.top1 is not None
        values: dict[str, Tensor | float] = {
            "entropy": generation.entropy,
            "top1": generation.top1,
            "student_gradient": norm,
            **others.values,
        }
        if losses:
            auxiliary, known = torch.stack(losses).mean(0)
            values |= {"divergence": divergence, "auxiliary_loss": auxiliary}
            if self.spec.student.in_one_step:  # else it varies with the step that is trained
                values["auxiliary_gap"] = known.double() - generation.entropy.double()
            values["auxiliary_gradient"] = aux_norm
            if (nats := self.student_update.nats) is not None:
                values["teacher_kl"] = nats
        return Seen(values, optional=others.optional)

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
        """From now on, passes of half as many samples, where they can be smaller."""
        share = halved(self.share, self.spec.least_pass)
        assert share is not None, "passes cannot be smaller"
        self.share = share
        train = local_train(self.spec.train, self.share)
        self.spec = self.spec.model_copy(update={"train": train})

    def begin_anew(self) -> None:
        """Forget the step that was begun; steps are carried out as they are written from now on."""
        for optimizer in self.optimizers().values():
            optimizer.forget()
            optimizer.follow_rate_number()

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
            ready = next(self.starts)
            cond, mask = ready.cond, ready.mask
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
        path = self.rollout.draw(self.generator)
        start = self.roll_out(Start(x_init), cond, sigma, path)
        gradients = gradients and self.spec.loss.student_input == "x_init"
        with self.autocast(), torch.set_grad_enabled(gradients):
            hidden, drawn = self.draw(start, cond, sigma, measure)
        tokens = start.filled(drawn.tokens)
        found = drawn.entropy, drawn.top1
        still_open = self.rollout.still_open(path) if self.spec.masking.judged == "kept" else 0
        seen = cond, init_mask, sigma, hidden, tokens
        return Generation(*seen, *found, start.kept, path, still_open)

    @torch.no_grad()
    def roll_out(self, start: Start, cond: Cond, sigma: float, path: Path) -> Start:
        """Where a step of the student starts, by the steps that it takes itself until there."""
        for still_open in path:
            with self.autocast():
                _, drawn = self.draw(start, cond, sigma)
            mask_id = self.teacher.space.mask_id
            start = start.after(drawn.tokens, still_open, mask_id, self.generator)
        return start

    def draw(
        self, start: Start, cond: Cond, sigma: float, measure: bool = False
    ) -> tuple[Tensor, Drawn]:
        """A pass of the student: its hidden states, and what it draws of all slots."""
        hidden = student_hidden(self.student, start.tokens, cond, sigma, self.generator)
        drawn = draw_from_hidden(
            self.student,
            hidden,
            self.generator,
            chunk_tokens=self.chunk_tokens,
            measure=measure,
            settled=start.kept,
        )
        return hidden, drawn

    def look(self, step: int) -> Generation:
        """A pass that is only measured: the run's draws go on as if it had not been."""
        generators = (self.run_generator, self.host)
        before = [generator.get_state() for generator in generators]
        generation = self.generate(step, measure=True, gradients=False)
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        return generation

    @torch.no_grad()
    def student_logits(self, generation: Generation, rows: Tensor) -> Tensor:
        """Logits [n, G, V] that the student had at flat rows [n] of a pass."""
        if generation.logits is not None:
            return generation.logits[rows]
        flat = generation.hidden.detach().flatten(0, 1)
        logits = self.student.head(flat[rows], rows % self.teacher.space.length)
        return generation.settled(logits, rows)

    @property
    def remasking(self) -> Remasking:
        """The law of x_tilde."""
        return Remasking(self.spec.masking, self.teacher.space.mask_id)

    def draw_x_tilde(
        self, tokens: Tensor, which: int, kept: Tensor | None = None, still_open: int = 0
    ) -> tuple[Tensor, Tensor, Mask]:
        """Mask ratios [B], x_tilde and its mask: for the student (0), or an auxiliary update."""
        source, prepared = self.generator, self.prepared
        return self.remasking.draw(tokens, which, source, prepared, kept, still_open)

    def take(self, prepared: Prepared | None) -> None:
        """Take these in place of the host's draws, in the next step; None: draw."""
        self.prepared: Prepared | None = prepared
        self.starts = iter(prepared.starts if prepared is not None else ())
        self.losses.take(prepared.asked if prepared is not None else None)

    def prepare(self) -> Prepared:
        """Draw all that Python decides of the next step, which has one pass."""
        return prepare(
            self.spec, self.teacher.space, self.losses, self.draw_conditions, self.generator
        )

    def hidden(self, backbone: Backbone, embeds: Tensor, cond: Cond) -> Tensor:
        """Hidden states of embeddings without noise: how teacher and auxiliary see x_tilde."""
        return plain_hidden(backbone, embeds, cond)

    def embeds(
        self, backbone: Backbone, generation: Generation, x_tilde: Tensor, mask: Tensor
    ) -> Tensor:
        """x_tilde [B, L, D] for a backbone: of tokens, or of the student's probabilities (I.15)."""
        if self.spec.masking.content == "tokens":
            return told_step(backbone, backbone.embed(x_tilde), generation.path)
        B, L, _ = generation.hidden.shape
        slots, rows = mask.flatten(0, 1), torch.arange(B * L, device=mask.device)
        parts = []
        for part in chunks(B * L, self.chunk_tokens):
            probs = self.student_logits(generation, rows[part]).float().softmax(-1)
            # A sum over thousands of small probabilities is not for half precision.
            with torch.autocast(mask.device.type, enabled=False):
                parts.append(backbone.embed_probs(probs[:, None], slots[part][:, None]).squeeze(1))
        return told_step(backbone, torch.cat(parts).unflatten(0, (B, L)), generation.path)

    def teacher_logits(self, embeds: Tensor, cond: Cond, mask_ratio: Tensor) -> TeacherAt:
        """One teacher pass over x_tilde; the result projects flat rows [n] to logits."""
        return self.teacher_pass.logits(embeds, cond, mask_ratio)
