"""One network's optimizer with what belongs to it: warm-up, clipping, refusal of bad gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dimo_cli.engine.schedules import schedule_factor, warmup_factor
from dimo_cli.engine.sharding import is_sharded, local, own_rows
from dimo_cli.specs.optimizer import OptimizerSpec

BUCKET = 2**25  # bytes of gradients that are sent at once


class NetworkOptimizer:
    """Adam or AdamW over the trainable parameters of one network."""

    def __init__(self, network: nn.Module, spec: OptimizerSpec, steps: int) -> None:
        """`steps` is the length of the run, which a schedule may end with."""
        self.spec, self.steps = spec, steps
        self.scale = 1.0
        self.follow(network)

    def follow(self, network: nn.Module) -> None:
        """Begin anew with a network's parameters, of which it moves what this rank holds."""
        spec = self.spec
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.own = [own_parameter(parameter) for parameter in self.parameters]
        kind = torch.optim.Adam if spec.kind == "adam" else torch.optim.AdamW
        self.optimizer = kind(
            self.own,
            lr=spec.learning_rate,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=True,
        )

    def update(
        self, step: int, factor: Tensor | None = None, unless: Tensor | None = None
    ) -> Tensor:
        """Clip and apply the accumulated gradient, times `factor`; returns its norm before that.

        A gradient that is not finite is thrown away instead: the caller reads it off the norm.
        With `unless`, a number on a card, it is the card that finds out, and nobody waits; where
        that is 1, something else was not finite, and the gradient is thrown away as well.
        """
        average_over_ranks([p for p in self.parameters if not is_sharded(p)])
        for parameter, own in zip(self.parameters, self.own, strict=True):
            if own is not parameter:
                own.grad = None if parameter.grad is None else local(parameter.grad)
        if factor is not None:
            torch._foreach_mul_([own.grad for own in self.own if own.grad is not None], factor)
        norm = self.norm()
        if unless is not None:
            # What torch's fused optimizers look at before they touch a weight.
            found_inf = unless.maximum((~norm.isfinite()).to(unless))
            self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        if unless is not None or norm.isfinite():
            if self.spec.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.own, self.spec.clip_norm, norm)
            if not self.has_rate_tensor:
                self.set_rate(step)
            self.optimizer.step()
        self.forget()
        return norm

    def set_rate(self, step: int) -> None:
        """Give the optimizer the learning rate of a step."""
        spec = self.spec
        rate = spec.learning_rate * self.scale * warmup_factor(step, spec.warmup_steps)
        rate *= schedule_factor(spec.schedule, step, spec.warmup_steps, self.steps)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @property
    def has_rate_tensor(self) -> bool:
        """Whether the rate is a tensor, which is set before a step and not in it."""
        return isinstance(self.optimizer.param_groups[0]["lr"], Tensor)

    def follow_rate_tensor(self) -> None:
        """Read the rate from a tensor from now on, so that a recorded step finds it there."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.own[0].device)
            group["capturable"] = True

    def follow_rate_number(self) -> None:
        """Take the rate from the step again: nothing is recorded any more."""
        take_rate_numbers(self.optimizer.param_groups)

    def forget(self) -> None:
        """Throw the accumulated gradient away."""
        for parameter in (*self.parameters, *self.own):
            parameter.grad = None

    def norm(self) -> Tensor:
        """The norm of the whole gradient, the same in every rank."""
        pairs = zip(self.parameters, self.own, strict=True)
        found = [(p, own.grad) for p, own in pairs if own.grad is not None]
        norm = torch.nn.utils.get_total_norm([g for p, g in found if not is_sharded(p)])
        if not any(is_sharded(parameter) for parameter in self.parameters):
            return norm
        shards = torch.nn.utils.get_total_norm([g for p, g in found if is_sharded(p)])
        squares = shards.square()
        dist.all_reduce(squares)
        return (norm.square() + squares).sqrt()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to continue exactly, without the moments of sharded weights."""
        saved = self.optimizer.state_dict()
        saved["state"] = {
            index: {name: value for name, value in fields.items() if not self.spreads(index, value)}
            for index, fields in saved["state"].items()
        }
        take_rate_numbers(saved["param_groups"])  # however steps are carried out
        return {"optimizer": saved, "scale": self.scale}

    def shards(self) -> dict[str, Tensor]:
        """The moments of sharded weights, as far as this rank holds them."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, fields in state.items()
            for name, value in fields.items()
            if self.spreads(index, value)
        }

    def spreads(self, index: int, value: Tensor) -> bool:
        """Whether a part of the state of a parameter is spread over the ranks as that is."""
        return value.ndim > 0 and is_sharded(self.parameters[index])

    def load_state_dict(
        self, state: dict[str, Any], read: Callable[[int, Tensor], dict[str, Tensor]] | None = None
    ) -> None:
        """Continue from `state_dict`; `read` finds what of a parameter's moments is elsewhere."""
        saved = state["optimizer"]
        fields = {
            index: {
                **{name: self.own_part(index, value) for name, value in known.items()},
                **(read(index, self.parameters[index]) if read else {}),
            }
            for index, known in saved["state"].items()
        }
        self.optimizer.load_state_dict({**saved, "state": fields})
        self.scale = state["scale"]

    def own_part(self, index: int, value: Tensor) -> Tensor:
        """What this rank needs of a whole part of the state."""
        return value[own_rows(self.parameters[index])] if self.spreads(index, value) else value


def take_rate_numbers(groups: list[dict[str, Any]]) -> None:
    """Have numbers for rates, as where nothing is recorded."""
    for group in groups:
        group |= {"lr": float(group["lr"]), "capturable": False}


def own_parameter(parameter: nn.Parameter) -> nn.Parameter:
    """What this rank holds of a parameter, as a parameter in the same memory."""
    if not is_sharded(parameter):
        return parameter
    return nn.Parameter(local(parameter.detach()))


def average_over_ranks(parameters: list[nn.Parameter]) -> None:
    """Average gradients over the processes of a distributed run.

    By hand rather than by DistributedDataParallel: the chunked head runs outside any wrapper.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in buckets(gradients, BUCKET):
        together = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        parts = together.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(parts, bucket, strict=True)])


def buckets(tensors: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type, in groups of at most `size` bytes or of a single one."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and (filled + tensor.nbytes > size or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket


class Ema:
    """The running average of a network's weights, as a network of its own.

    With a `home`, that is where it is unless it is used.
    """

    def __init__(
        self, average: nn.Module, source: nn.Module, home: torch.device | str | None = None
    ) -> None:
        self.network = average.requires_grad_(False).eval()
        self.source, self.home, self.is_away = source, home, home is not None
        self.follow()

    def follow(self) -> None:
        """Average the parameters that are trained, wherever they are."""
        pairs = zip(self.network.parameters(), self.source.parameters(), strict=True)
        moving = [(mean, now) for mean, now in pairs if now.requires_grad]
        self.means: list[Tensor] = [local(mean.detach()) for mean, _ in moving]
        self.sources: list[Tensor] = [local(now.detach()) for _, now in moving]

    def at(self, device: torch.device | str) -> nn.Module:
        """The average on a device, where it stays until the next update."""
        if self.home is not None:
            self.is_away = True
            self.network.to(device)
        return self.network

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """mean <- decay mean + (1 - decay) weight."""
        if self.is_away:
            self.network.to(self.home)
            self.is_away = False
            self.follow()
        sources = self.sources
        if self.home is not None:
            sources = [source.to(self.home) for source in sources]
        torch._foreach_lerp_(self.means, sources, 1 - decay)
