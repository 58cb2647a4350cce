"""The small functions of the step: guidance, noise, r_init, learning rate, EMA decay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dimo_cli.engine.draws import Source, normal, on_host, own_generator, uniform
from dimo_cli.specs.init import FixedNoise, FixedRatio, RandomRatio, WarmupNoise
from dimo_cli.specs.optimizer import RateSchedule
from dimo_cli.specs.teacher import TeacherGuidance
from dimo_cli.teachers.protocol import Backbone, TokenSpace


def guidance_scale(spec: TeacherGuidance, mask_ratio: Tensor) -> Tensor:
    """Guidance s of each sample at its mask ratio m [B]."""
    if spec.kind == "constant":
        progress = torch.ones_like(mask_ratio)
    elif spec.kind == "linear":
        progress = mask_ratio
    else:
        progress = (1 - torch.cos(math.pi * mask_ratio)) / 2
    start = spec.scale if spec.kind == "constant" else spec.start
    return start + (spec.scale - start) * progress


def noise_sigma(spec: FixedNoise | WarmupNoise, step: int) -> float:
    """Share of noise in the student's token embeddings at a step."""
    if isinstance(spec, FixedNoise):
        return spec.sigma
    progress = step / spec.steps
    if spec.shape == "exponential":
        return spec.sigma * (1 - math.exp(-progress))
    progress = min(1.0, progress)
    if spec.shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return spec.sigma * progress


def add_noise(embeds: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """e becomes sigma n + sqrt(1 - sigma^2) e for given noise n (Di[M]O, section 4.3)."""
    return sigma * noise.to(embeds) + math.sqrt(1 - sigma**2) * embeds


def perturb_embeddings(embeds: Tensor, sigma: float, generator: Source) -> Tensor:
    """Embeddings with noise n ~ N(0, I), drawn where the generator is."""
    if sigma == 0:
        return embeds
    return add_noise(embeds, sigma, normal(embeds.shape, generator))


@torch.no_grad()
def noise_over_spread(sigma: float, backbone: Backbone, space: TokenSpace) -> float:
    """Noise in units of the spread of the embeddings that it is put on.

    sigma is absolute: of two teachers one can drown in what the other does not notice.
    """
    device = next(backbone.parameters()).device
    tokens = torch.arange(space.length * space.groups, device=device) % space.codes
    spread = backbone.embed(tokens.view(1, space.length, space.groups)).float().std(1).mean()
    return sigma / max(spread.item(), 1e-12)


def draw_mask_ratio(spec: FixedRatio | RandomRatio, generator: Source) -> float:
    """r_init of this step, the same for the whole batch."""
    if isinstance(spec, FixedRatio):
        return spec.value
    u = uniform((), own_generator(on_host(generator))).item()
    return spec.low + (spec.high - spec.low) * u


def middle_mask_ratio(spec: FixedRatio | RandomRatio) -> float:
    """r_init that the finished student is sampled with."""
    return spec.value if isinstance(spec, FixedRatio) else (spec.low + spec.high) / 2


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Linear warm-up of the learning rate: k/N, so the very first update changes nothing."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def schedule_factor(schedule: RateSchedule, step: int, warmup_steps: int, steps: int) -> float:
    """Share of the learning rate that a schedule leaves at a step of a run of `steps` steps."""
    if schedule.kind == "constant":
        return 1.0
    end = schedule.steps or steps
    start = max(warmup_steps, round(schedule.hold * end))
    progress = min(1.0, max(0, step - start) / max(1, end - start))
    left = 1 - progress if schedule.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.floor + (1 - schedule.floor) * left


def ema_decay(step: int, decay: float, warmup: bool = True) -> float:
    """Decay of the EMA at a step: (1 + k)/(10 + k) until it exceeds `decay`."""
    return min(decay, (1 + step) / (10 + step)) if warmup else decay
