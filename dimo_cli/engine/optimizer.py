"""One network's optimizer with what belongs to it: warm-up, clipping, refusal of bad gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dimo_cli.engine.schedules import warmup_factor
from dimo_cli.specs.distill import OptimizerSpec


class NetworkOptimizer:
    """Adam or AdamW over the trainable parameters of one network."""

    def __init__(self, network: nn.Module, spec: OptimizerSpec) -> None:
        self.spec = spec
        self.scale = 1.0
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        kind = torch.optim.Adam if spec.kind == "adam" else torch.optim.AdamW
        self.optimizer = kind(
            self.parameters,
            lr=spec.learning_rate,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=True,
        )

    def update(self, step: int) -> Tensor:
        """Clip and apply the accumulated gradient; returns its norm before clipping.

        A gradient that is not finite is thrown away instead: the caller reads it off the norm.
        """
        average_over_ranks(self.parameters)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        if norm.isfinite():
            if self.spec.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.spec.clip_norm, norm)
            rate = self.spec.learning_rate * self.scale
            for group in self.optimizer.param_groups:
                group["lr"] = rate * warmup_factor(step, self.spec.warmup_steps)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to continue exactly."""
        return {"optimizer": self.optimizer.state_dict(), "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale = state["scale"]


def average_over_ranks(parameters: list[nn.Parameter]) -> None:
    """Average gradients over the processes of a distributed run.

    By hand rather than by DistributedDataParallel: the chunked head runs outside any wrapper.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for parameter in parameters:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()


class Ema:
    """The running average of a network's weights, as a network of its own."""

    def __init__(self, average: nn.Module, source: nn.Module) -> None:
        self.network = average.requires_grad_(False).eval()
        pairs = zip(average.parameters(), source.parameters(), strict=True)
        moving = [(mean, now) for mean, now in pairs if now.requires_grad]
        self.means: list[Tensor] = [mean for mean, _ in moving]
        self.sources: list[Tensor] = [now for _, now in moving]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """mean <- decay mean + (1 - decay) weight."""
        torch._foreach_lerp_(self.means, self.sources, 1 - decay)
