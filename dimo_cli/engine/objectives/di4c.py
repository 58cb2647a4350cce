"""di4c (arXiv 2410.08709): tokens of one step that agree, as a mixture over a latent.

Given lambda ~ U[0, 1] the student draws its tokens apart; over N values of lambda its likelihood is
lse_n l_n(x) - log N with l_n(x) = sum_s log p_s(x_s | lambda_n). That is the likelihood of tokens
each by itself, plus what they have in common, which serves as a control variate:

    cv(x) = lse_n l_n(x) - log N - sum_s (lse_n log p_s(x_s | lambda_n) - log N)

Its gradient at the logits of latent n and slot s is (rho_n - rho_ns) (onehot(x_s) - p_ns), with
rho the softmax over n of l_n, or of the slot's own term. An image x_0 is masked to x_t at a way r
of the sampler. The student learns three things there, phi being the teacher, and x_u its state one
step later:

    image:         -a(r) cv(x_0) + KL(phi(x_t) || mean_n p_n),      a = a_0 sigmoid(20 (1/2 - r))
    teacher:       mean_n KL(phi(x_t) || p_n) / delta,              for r >= 1 - delta
    consistency:   -mean_i cv(x_0^i) + KL(mean_n p_n(x_u) || mean_n p_n),   otherwise

where x_0^i is drawn by the student itself at x_u, whose part is not differentiated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dimo_cli.engine.clean import CleanTokens, check_starts_masked, drawings_of, needs_of
from dimo_cli.engine.draws import chunks, sourced_chunks, uniform
from dimo_cli.engine.field import TeacherAt, guided, log_probs
from dimo_cli.engine.heads import HeadRows, backward_through_head
from dimo_cli.engine.objective import PassObjective, Run
from dimo_cli.engine.one_step import draw_from_hidden, draw_tokens, gumbel, student_hidden
from dimo_cli.engine.schedules import noise_sigma
from dimo_cli.engine.teacher_pass import TeacherPass
from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.objectives import Di4cSpec
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Cond

SCHEDULE = SCHEDULES["arccos"]
NOISE_ENDS = 7 / 8
"""The way at which the noise of the teacher's choice is gone; behind it, its sign is the other."""


def control_variate(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """cv [B], and rho_n - rho_ns [B, N, S], of the drawn tokens' log-probabilities [B, N, S]."""
    count = math.log(log_p.shape[1])
    whole, own = log_p.sum(-1), log_p.logsumexp(1) - count
    value = whole.logsumexp(1) - count - own.sum(-1)
    return value, whole.softmax(1)[..., None] - log_p.softmax(1)


def mixture(log_p: Tensor) -> Tensor:
    """log mean_n p_n [c, ...] of log-probabilities [c, N, ...]."""
    return log_p.logsumexp(1) - math.log(log_p.shape[1])


def to_mixture(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of KL(q || mean_n p_n) at logits [c, N, G, V], and its value [c, G]."""
    weighted = log_q.exp()[:, None] * log_p.softmax(1)
    gradient = log_p.exp() * weighted.sum(-1, keepdim=True) - weighted
    return gradient, (log_q.exp() * (log_q - mixture(log_p))).sum(-1)


def to_each(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The same of mean_n KL(q || p_n)."""
    gap = log_q[:, None] - log_p
    value = (log_q.exp()[:, None] * gap).sum(-1).mean(1)
    return (log_p.exp() - log_q.exp()[:, None]) / log_p.shape[1], value


def towards_tokens(log_p: Tensor, tokens: Tensor, factors: Tensor) -> Tensor:
    """sum_j f_nj (onehot(x_j) - p_n) at logits [c, N, G, V], of tokens [c, J, G].

    `factors` [c, N, J, G] are what each is multiplied by.
    """
    places = tokens[:, None].expand_as(factors).transpose(2, 3)
    drawn = torch.zeros_like(log_p).scatter_add_(-1, places, factors.transpose(2, 3))
    return drawn - log_p.exp() * factors.sum(2)[..., None]


@dataclass(frozen=True, slots=True)
class Weights:
    """What each of the losses counts for samples at r [B]."""

    control: Tensor
    teacher: Tensor
    consistency: Tensor

    @classmethod
    def at(cls, r: Tensor, spec: Di4cSpec) -> Weights:
        """Those of the paper."""
        is_last = (r >= 1 - spec.delta).to(r.dtype)
        control = spec.control * torch.sigmoid(20 * (0.5 - r))
        return cls(control, is_last / spec.delta, 1 - is_last)

    def of_tokens(self, samples: int) -> Tensor:
        """By how much cv is asked to rise [B, 1 + N]: of the image, and of the student's own."""
        own = (self.consistency / samples)[:, None].expand(-1, samples)
        return torch.cat([self.control[:, None], own], dim=1)


def chosen(scores: Tensor, masked: Tensor, still_masked: Tensor) -> Tensor:
    """Which masked slots [B, N, S] are revealed, the best ones, so that so many [B] are left."""
    masked = masked[:, None].expand_as(scores)
    order = scores.masked_fill(~masked, -torch.inf).argsort(-1, descending=True).argsort(-1)
    count = (masked.sum(-1) - still_masked[:, None]).clamp(min=0)
    return (order < count[..., None]) & masked


@dataclass(frozen=True, slots=True)
class Shown:
    """Images of a pass, and what is seen of them."""

    image: Tensor
    x_t: Tensor
    masked: Tensor
    cond: Cond
    r: Tensor


class Di4c(PassObjective):
    """A mixture student, by its teacher, by images, and by itself one step later."""

    name = "di4c"
    teacher_looks = 1

    def __init__(self, settings: Di4cSpec, weight: float = 1.0) -> None:
        self.settings, self.weight = settings, weight
        self.needs, self.drawings = needs_of(settings), drawings_of(settings)
        self.trained = settings.samples
        self.looks = settings.samples + (settings.images == "student")

    def attach(self, run: Run) -> None:
        check_starts_masked(run, self.name)
        if not run.student.has_latent:
            raise SpecError(
                "Objective di4c trains a mixture over a latent, and the student has none.",
                "Set `student.latent=true`.",
            )
        self.run = run
        self.clean = CleanTokens(run, self.settings)
        self.teacher = TeacherPass(run.teacher, run.spec.teacher.guidance)

    def backward(self, step: int, measure: bool) -> None:
        run, samples = self.run, self.settings.samples
        sigma = noise_sigma(run.spec.init.embed_noise, step)
        shown = self.show(step)
        many = repeated(shown.cond, samples)
        with run.autocast():
            teacher = self.teacher.logits(
                run.teacher.backbone.embed(shown.x_t), shown.cond, SCHEDULE(shown.r)
            )
            x_u = self.teacher_step(teacher, shown)
            later = self.hidden(x_u.flatten(0, 1), many, sigma, with_graph=False)
            own = draw_from_hidden(
                run.student, later, run.generator, chunk_tokens=run.chunk_tokens
            ).tokens.clamp(max=run.teacher.space.codes - 1)
            seen = shown.x_t.repeat_interleave(samples, 0)
            hidden = self.hidden(seen, many, sigma, with_graph=True)
            tokens = torch.cat([shown.image[:, None], own.unflatten(0, x_u.shape[:2])], 1)
            self.learn(hidden, later, teacher, tokens, shown)

    def show(self, step: int) -> Shown:
        """Images, masked at ways r ~ U[0, 1] of the sampler."""
        run = self.run
        image, cond = self.clean.draw(step)
        r = uniform((len(image),), run.generator)
        masked = uniform(image.shape, run.generator) < SCHEDULE(r)[:, None, None]
        x_t = image.masked_fill(masked, run.teacher.space.mask_id)
        return Shown(image, x_t, masked, cond, r)

    def hidden(self, tokens: Tensor, cond: Cond, sigma: float, with_graph: bool) -> Tensor:
        """A pass of the student, each sample with a latent of its own."""
        run, student = self.run, self.run.student
        was_training = student.training
        student.train(was_training and with_graph)
        with torch.set_grad_enabled(with_graph):
            hidden = student_hidden(student, tokens, cond, sigma, run.generator)
        student.train(was_training)
        return hidden

    @torch.no_grad()
    def teacher_step(self, teacher: TeacherAt, shown: Shown) -> Tensor:
        """x_u [B, N, L, G]: the most confident tokens of the teacher's stay, for each latent."""
        run, space, samples = self.run, self.run.teacher.space, self.settings.samples
        B, L, G = shown.x_t.shape
        rows, row = torch.arange(B * L, device=shown.x_t.device), (samples, G, space.codes)
        drawn, scores = [], []
        for part, source in sourced_chunks(B * L, self.positions, run.generator, lambda: row):
            log_phi = self.log_phi(teacher, rows[part])[..., : space.codes]
            tokens = draw_tokens(log_phi[:, None].expand(-1, *row), source)
            drawn.append(tokens)
            scores.append(log_phi[:, None].expand(-1, *row).gather(-1, tokens[..., None])[..., 0])
        by_latent = (B, L, samples, G)
        tokens = torch.cat(drawn).view(by_latent).transpose(1, 2)
        sure = torch.cat(scores).view(by_latent).transpose(1, 2).flatten(2)
        noise = gumbel(sure.shape, run.generator)
        sure = sure + self.settings.choice_noise * (1 - shown.r / NOISE_ENDS)[:, None, None] * noise
        ahead = (shown.r + self.settings.delta).clamp(max=1)
        left = torch.floor(SCHEDULE(ahead) * (L * G)).long()
        revealed = chosen(sure, shown.masked.flatten(1), left).view_as(tokens)
        return torch.where(revealed, tokens, shown.x_t[:, None])

    @property
    def positions(self) -> int:
        """Positions at a time, with the logits of all latents."""
        return max(1, self.run.chunk_tokens // self.settings.samples)

    def log_phi(self, teacher: TeacherAt, rows: Tensor) -> Tensor:
        """What the teacher says of flat positions [c, G, V]."""
        return log_probs(guided(teacher(rows)), self.run.spec.loss.teacher_temperature)

    def learn(
        self,
        hidden: Tensor,
        later: Tensor,
        teacher: TeacherAt,
        tokens: Tensor,
        shown: Shown,
    ) -> None:
        """Backpropagate all losses, of hidden states [B N, L, D] at x_t and at x_u.

        The logits of a position exist for all latents at once, and are formed twice: what is asked
        of one slot depends on the tokens of all.
        """
        run, samples = self.run, self.settings.samples
        count, length = hidden.shape[0] // samples, hidden.shape[1]
        places = latent_rows(count, samples, length, hidden.device)
        weights = Weights.at(shown.r, self.settings)
        counts = self.settings.slots == "all" or shown.masked
        slots = torch.ones_like(shown.masked) & counts
        at = tokens.permute(0, 2, 1, 3).flatten(0, 1)
        cv, factors = self.agreement(hidden, places, at, slots)
        factors = factors * weights.of_tokens(samples)[:, None, None, :, None]
        factors = factors.flatten(0, 1) * slots.flatten(0, 1)[:, None, None]
        scale = self.weight / (count * run.spec.train.accumulate)
        losses = [-(weights.of_tokens(samples) * cv).sum()]
        flat = later.detach().flatten(0, 1)

        def ask(head: HeadRows, part: slice) -> Tensor:
            here = slice(part.start // samples, -(-part.stop // samples))
            log_p = by_latent(head.logits().detach(), samples)
            with torch.no_grad():
                said = run.student.head(flat[places[part]], places[part] % length)
                log_q = mixture(by_latent(said, samples))
            rows = torch.arange(here.start, here.start + len(log_p), device=flat.device)
            log_phi, sample = self.log_phi(teacher, rows), rows // length
            total = -towards_tokens(log_p, at[rows], factors[rows])
            for weight, (gradient, value) in (
                (torch.ones_like(shown.r), to_mixture(log_phi, log_p)),
                (weights.teacher, to_each(log_phi, log_p)),
                (weights.consistency, to_mixture(log_q, log_p)),
            ):
                own = weight[sample][:, None] * slots.flatten(0, 1)[rows]
                total += own[:, None, :, None] * gradient
                losses.append((own * value).sum())
            return (total * scale).flatten(0, 1)

        whole = self.positions * samples
        backward_through_head(run.student, hidden, places, whole, ask)
        run.log("di4c_loss", torch.stack(losses).sum() / count)
        run.log("di4c_control", cv[:, 0].mean())

    @torch.no_grad()
    def agreement(
        self, hidden: Tensor, places: Tensor, tokens: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """cv [B, J] of tokens [B L, J, G], and what it asks [B, L, N, J, G] of each latent."""
        run, samples = self.run, self.settings.samples
        (B, L, G), flat = slots.shape, hidden.detach().flatten(0, 1)
        found = []
        for part in chunks(B * L, self.positions):
            rows = places[part.start * samples : part.stop * samples]
            log_p = by_latent(run.student.head(flat[rows], rows % L), samples)
            chosen = tokens[part, None].expand(-1, samples, -1, -1).transpose(2, 3)
            found.append(log_p.gather(-1, chosen).transpose(2, 3))
        log_p = torch.cat(found).view(B, L, samples, -1, G)
        log_p = log_p * slots[:, :, None, None]
        by_tokens = log_p.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1)
        value, factors = control_variate(by_tokens)
        factors = factors.view(B, -1, samples, L, G).permute(0, 3, 2, 1, 4)
        return value.view(B, -1), factors


def repeated(cond: Cond, count: int) -> Cond:
    """A condition with each sample `count` times in a row."""
    tensors = {name: t.repeat_interleave(count, 0) for name, t in cond.tensors.items()}
    return Cond(tensors, tuple(text for text in cond.texts for _ in range(count)))


def by_latent(logits: Tensor, samples: int) -> Tensor:
    """log p [c, N, G, V] of logits [c N, G, V]."""
    return logits.float().log_softmax(-1).unflatten(0, (-1, samples))


def latent_rows(count: int, samples: int, length: int, device: torch.device) -> Tensor:
    """Flat rows of hidden states [B N, L], all latents of a position one after the other."""
    rows = torch.arange(count * samples * length, device=device)
    return rows.view(count, samples, length).transpose(1, 2).flatten()


def build(spec: DistillSpec, weight: float, **settings: Any) -> Di4c:
    """The objective of `kind: di4c`."""
    return Di4c(Di4cSpec.model_validate(settings), weight)
