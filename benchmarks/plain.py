"""The released recipe of Di[M]O, written plainly: what a step is measured against.

After the public description of the released code: the student generates twice an iteration (once
with a graph for its own update, once more for the auxiliary's), all logits and softmaxes are whole
tensors that live as long as the step does and are divided by their temperatures whatever these are,
the student's gradient goes through the surrogate 0.5 |z - sg(z - g)|^2, and what is not finite is
filtered out of logits and gradients. The two halves of guidance are one doubled batch.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from dimo_cli.engine.masking import forward_mask, initial_tokens
from dimo_cli.engine.schedules import ema_decay, perturb_embeddings
from dimo_cli.teachers.plans import SCHEDULES
from dimo_cli.teachers.protocol import Backbone, Cond, Teacher

LARGEST_GRADIENT = 1e5


@dataclass(frozen=True)
class Recipe:
    """The released settings that cost something."""

    batch: int
    guidance: float = 2.0
    mask_ratio: float = 0.6
    sigma: float = 0.1
    schedule: str = "arccos"
    label_smoothing: float = 0.1
    learning_rate: float = 1e-5
    temperature: float = 1.0
    weight: float = 1.0
    dropout: bool = True


class PlainDistillation:
    """Teacher, student, auxiliary and EMA, and one iteration over them."""

    def __init__(
        self,
        teacher: Teacher,
        recipe: Recipe,
        generator: torch.Generator,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.teacher, self.recipe, self.generator = teacher, recipe, generator
        self.autocast = autocast
        self.frozen = copy.deepcopy(teacher.backbone).train(recipe.dropout)
        self.student, self.auxiliary = (self.trainable() for _ in range(2))
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.student_optimizer = self.optimizer(self.student)
        self.auxiliary_optimizer = self.optimizer(self.auxiliary)

    def trainable(self) -> Backbone:
        """A copy of the teacher whose embeddings stay frozen."""
        backbone = copy.deepcopy(self.teacher.backbone).requires_grad_(True)
        for parameter in backbone.embedding_parameters():
            parameter.requires_grad_(False)
        return backbone.train(self.recipe.dropout)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam as it comes."""
        trained = [p for p in network.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=self.recipe.learning_rate)

    def step(self, step: int) -> None:
        """One iteration: the student's phase, the auxiliary's phase, the average."""
        self.student_phase()
        self.auxiliary_phase()
        decay = ema_decay(step, 0.9999)
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.student.parameters(), strict=True)
            for mean, now in pairs:
                mean.mul_(decay).add_(now, alpha=1 - decay)

    def generate(self) -> tuple[Cond, Tensor, Tensor]:
        """Conditions, the student's logits [B, L, G, V] at x_init, and tokens drawn from them."""
        recipe, space = self.recipe, self.teacher.space
        cond = self.teacher.conditioner.draw(recipe.batch, self.generator)
        x_init, _ = initial_tokens(space, recipe.batch, recipe.mask_ratio, self.generator)
        with self.autocast():
            embeds = self.student.embed(x_init)
            embeds = perturb_embeddings(embeds, recipe.sigma, self.generator)
            logits = self.all_logits(self.student, embeds, cond)
        probs = (logits.detach() / recipe.temperature).softmax(-1)
        return cond, logits, Categorical(probs=probs).sample()

    def all_logits(self, backbone: Backbone, embeds: Tensor, cond: Cond) -> Tensor:
        """Logits [B, L, G, V] of all positions in float32."""
        hidden = backbone.hidden(embeds, cond)
        assert isinstance(hidden, Tensor)
        return backbone.head(hidden).float()

    def masked(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens masked again, and where."""
        u = torch.rand(len(tokens), generator=self.generator, device=self.generator.device)
        ratio = SCHEDULES[self.recipe.schedule](u)
        return forward_mask(tokens, ratio, self.teacher.space.mask_id, self.generator)

    def student_phase(self) -> None:
        """The gradient of the divergence at x_tilde, given to the logits at x_init."""
        cond, logits, tokens = self.generate()
        x_tilde, mask = self.masked(tokens)
        with torch.no_grad(), self.autocast():
            guided = self.guided_logits(x_tilde, cond)
            p = (guided / self.recipe.temperature).softmax(-1)
            auxiliary = self.all_logits(self.auxiliary, self.auxiliary.embed(x_tilde), cond)
            q = (auxiliary / self.recipe.temperature).softmax(-1)
        field = torch.where(mask[..., None], q - p, 0.0) / self.recipe.weight
        field = torch.nan_to_num(field, nan=0.0)
        sound = self.sound(logits, field)
        target = (logits - field).detach()
        loss = 0.5 * F.mse_loss(logits[sound], target[sound], reduction="sum") / len(logits)
        loss.backward()
        self.apply(self.student, self.student_optimizer)

    def guided_logits(self, x_tilde: Tensor, cond: Cond) -> Tensor:
        """Both halves of guidance in one doubled batch."""
        null = self.teacher.conditioner.null(len(cond)).to(x_tilde.device)
        embeds = self.frozen.embed(torch.cat([x_tilde, x_tilde]))
        both = self.all_logits(self.frozen, embeds, Cond.cat([cond, null]))
        conditional, unconditional = both.chunk(2)
        return unconditional + self.recipe.guidance * (conditional - unconditional)

    def auxiliary_phase(self) -> None:
        """Cross-entropy on a new batch of the student that was just updated."""
        with torch.no_grad():
            cond, _, tokens = self.generate()
        x_tilde, mask = self.masked(tokens)
        with self.autocast():
            logits = self.all_logits(self.auxiliary, self.auxiliary.embed(x_tilde), cond)
        loss = F.cross_entropy(
            logits[mask], tokens[mask], label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        self.apply(self.auxiliary, self.auxiliary_optimizer)

    def sound(self, *tensors: Tensor) -> Tensor:
        """Which samples [B] have nothing that is not finite."""
        found = [tensor.isfinite().flatten(1).all(-1) for tensor in tensors]
        return torch.stack(found).all(0)

    def apply(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Filter the gradients and take a step."""
        for parameter in network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(
                    parameter.grad, nan=0.0, posinf=LARGEST_GRADIENT, neginf=-LARGEST_GRADIENT
                )
        optimizer.step()
        optimizer.zero_grad()

    def networks(self) -> list[nn.Module]:
        """All four."""
        return [self.frozen, self.student, self.auxiliary, self.average]
