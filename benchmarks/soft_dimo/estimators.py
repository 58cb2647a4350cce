"""Bias and variance of the estimators at one discriminator, by the same logits and one mask."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.soft_dimo.gan import FILES
from benchmarks.soft_dimo.trials import Trial
from dimo_cli.engine.objectives.gan import GanObjective
from dimo_cli.engine.one_step import draw_tokens
from dimo_cli.engine.refine import Refinement
from dimo_cli.engine.relax import Estimator, estimate, one_hots
from dimo_cli.runs.refine import real_tokens
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.teachers.protocol import Cond
from dimo_cli.training.accelerator import make_accelerator

SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0)  # factors of the logits
TRAINED, SAMPLES, DRAWS, REFERENCE = 100, 2, 512, 100_000
KEPT_EVERY = 5_000  # draws, after which a trial that was stopped goes on
KINDS: dict[str, tuple[Estimator, float]] = {
    "soft": ("soft", 1.0),
    "gumbel_st": ("gumbel_st", 1.0),
    "reinforce": ("reinforce", 1.0),
}


def trials() -> list[Trial]:
    """A discriminator that has learned from soft fakes, and one from drawn ones."""
    found = []
    for seen in ("soft", "gumbel_st"):
        for factor in SHARPNESS:
            settings = {"discriminator saw": seen, "factor": factor, "reference": REFERENCE}
            settings["samples"] = SAMPLES
            run = partial(by_drawing, seen, factor)
            found.append(Trial("estimators", f"{seen}-{factor}", settings, run, FILES))
    return found


def trained(seen: str) -> Refinement:
    """A refinement whose discriminator has learned for 100 steps, and whose student has not."""
    sets = [f"train.steps={TRAINED}", f"relax.kind={seen}", "gan.start=1000000", "start=digits"]
    spec = resolve_spec(RefineSpec, preset="digits-gan", sets=sets, environment={}).spec
    start = open_student("digits", LoadOptions(with_teacher=True))
    accelerator = make_accelerator(spec.train)
    torch.manual_seed(0)  # of the discriminator's first weights
    method = Refinement(
        start.teacher,
        spec,
        torch.Generator().manual_seed(0),
        accelerator.autocast,
        start=start.backbone,
        data=real_tokens(spec, start.teacher),
    )
    for step in range(TRAINED):
        method.step(step)
    return method


def by_drawing(seen: str, factor: float, folder: Path) -> dict[str, Any]:
    """Bias over the norm of the reference, and variance over its square, for each estimator."""
    method = trained(seen)
    gan = method.losses.objectives[0]
    assert isinstance(gan, GanObjective)
    gan.discriminator.eval()
    generation = method.generate(0)
    with torch.no_grad():
        logits = factor * method.student.head(generation.hidden[:SAMPLES]).float()
    cond, mask = generation.cond[:SAMPLES], gan.draw_mask(SAMPLES)

    def objective(weights: Tensor) -> Tensor:
        times = len(weights) // SAMPLES
        embeds = gan.masked(weights, mask.repeat(times, 1, 1))
        return F.softplus(-gan.discriminator(embeds, Cond.cat([cond] * times)))

    generator = torch.Generator().manual_seed(1)
    reference, noise = by_score(logits, objective, folder)
    found: dict[str, Any] = {
        "entropy": float(torch.distributions.Categorical(logits=logits).entropy().mean()),
        "reference_norm": float(reference.norm()),
        "reference_noise": noise,
    }
    for name, (kind, tau) in KINDS.items():
        gradients = []
        for _ in range(1 if kind == "soft" else DRAWS):
            leaf = logits.clone().requires_grad_()
            value, _ = estimate(kind, leaf, objective, generator, tau)
            gradients.append(torch.autograd.grad(value, leaf)[0])
        every = torch.stack(gradients)
        mean, norm = every.mean(0), reference.norm()
        variance = (every - mean).square().flatten(1).sum(1).mean()
        # The mean of a few draws is noisy, which is no bias.
        raw = (mean - reference).square().sum() - variance / len(every)
        found[name] = {
            "bias": float(raw.clamp(min=0).sqrt() / norm),
            "variance": float(variance / norm.square()),
            "cosine": float(F.cosine_similarity(mean.flatten(), reference.flatten(), dim=0)),
        }
    return found


@torch.no_grad()
def by_score(
    logits: Tensor, objective: Any, folder: Path, at_once: int = 100
) -> tuple[Tensor, float]:
    """The score function's mean of 1e5 draws, unbiased, and its own error over its norm."""
    generator, kept = torch.Generator().manual_seed(1), folder / "reference.pt"
    probs, baseline = logits.softmax(-1), objective(logits.softmax(-1))
    first, total, squares = 0, torch.zeros_like(logits, dtype=torch.float64), 0.0
    if kept.is_file():
        state = torch.load(kept, weights_only=True)
        first, total, squares = state["done"], state["total"], state["squares"]
        generator.set_state(state["generator"])
    for done in range(first, REFERENCE, at_once):
        tokens = draw_tokens(logits.repeat(at_once, 1, 1, 1), generator)
        drawn = one_hots(tokens, logits)
        values = objective(drawn) - baseline.repeat(at_once)
        each = values.view(-1, 1, 1, 1) * (drawn - probs.repeat(at_once, 1, 1, 1))
        each = each.view(at_once, *logits.shape).double()
        total += each.sum(0)
        squares += float(each.square().sum())
        if (done + at_once) % KEPT_EVERY == 0:
            state = {"done": done + at_once, "total": total, "squares": squares}
            torch.save({**state, "generator": generator.get_state()}, kept)
    mean = total / REFERENCE
    variance = squares / REFERENCE - float(mean.square().sum())
    return mean.float(), (variance / REFERENCE) ** 0.5 / float(mean.norm())
