"""What a Soft-Di[M]O refinement run is: a distillation run with adversarial and reward terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dimo_cli.specs.base import Flag, Int, Real, Spec, or_auto
from dimo_cli.specs.distill import AuxiliarySpec, DistillSpec
from dimo_cli.specs.objectives import beyond_reverse_kl
from dimo_cli.specs.optimizer import OptimizerSpec

FROM_TEACHER = "teacher"  # a start without any student
WARM_UP = 100  # steps of a discriminator whose weight is automatic


class RelaxSpec(Spec):
    """How a gradient gets through the discrete tokens (section 3.1, appendix G)."""

    kind: Literal["soft", "gumbel_st", "reinforce"] = Field(
        "soft",
        description="Soft embeddings (Eq. 3), Gumbel straight-through, or the score function",
    )
    temperature: Real = Field(
        1.0, gt=0, le=100, description="Divides the logits; above 1 the images degrade (Fig. 8)"
    )


class GanSpec(Spec):
    """Adversarial fine-tuning with the teacher as feature extractor (section 3.2.1)."""

    enabled: Annotated[bool, Flag(names=("--gan",))] = Field(
        False, description="Whether the student is trained against real data"
    )
    weight: Annotated[Real | Literal["auto"], or_auto("auto or a number")] = Field(
        100.0,
        description="Weight of the adversarial loss; auto: its gradient at the logits gets the "
        "norm of Di[M]O's",
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="Folder of real images as tokens (`dimo data encode`); null: what ships with "
        "the teacher",
    )
    mask_low: Real = Field(0.0, ge=0, le=1, description="Least share of masked embeddings")
    mask_high: Real = Field(0.95, ge=0, le=1, description="Largest share of masked embeddings")
    heads: Int = Field(4, ge=1, le=64, description="Tapped layers, each with a head of its own")
    width: Int | None = Field(
        None, ge=8, description="Channels of a head; null: twice the teacher's width, up to 1024"
    )
    dropout: Real = Field(0.0, ge=0, lt=1, description="Dropout in the heads")
    feature_noise: Real = Field(
        0.0, ge=0, description="Gaussian noise on the teacher's features, in units of their spread"
    )
    start: Int | None = Field(
        None,
        ge=0,
        description="Steps before the adversarial loss reaches the student; null: 0, or "
        f"{WARM_UP} with weight auto, which would amplify an untrained discriminator",
    )
    bregman: Literal["reverse_kl", "neyman", "forward_kl", "jensen_shannon"] = Field(
        "reverse_kl",
        description="Di-Bregman: towards which divergence from the data the discriminator weighs "
        "samples in the Di[M]O loss, to first order and at no cost; reverse_kl: all count alike. "
        "The others are for divergence rkl and objective idlm",
    )
    optimizer: OptimizerSpec = Field(
        default_factory=lambda: OptimizerSpec(beta1=0.0), description="Optimizer of the heads"
    )

    @property
    def first_step(self) -> int:
        """The step from which on the adversarial loss reaches the student."""
        if self.start is not None:
            return self.start
        return WARM_UP if self.weight == "auto" else 0

    @model_validator(mode="after")
    def _ordered(self) -> GanSpec:
        if self.mask_low > self.mask_high:
            raise ValueError(f"mask_low ({self.mask_low}) is above mask_high ({self.mask_high})")
        if isinstance(self.weight, float) and self.weight <= 0:
            raise ValueError("weight must be above 0, or auto")
        return self


class RewardSpec(Spec):
    """Differentiable rewards on the decoded image (section 3.2.2, Eq. 9)."""

    terms: Annotated[
        dict[str, Annotated[Real, Field(gt=0)]],
        Flag(names=("--reward",), metavar="NAME=WEIGHT", completion="rewards"),
    ] = Field(
        default_factory=dict, description="Rewards and their weights; empty: no reward training"
    )
    weight: Real = Field(2000.0, gt=0, description="Weight of the weighted sum of rewards")
    held_out: str | None = Field(
        None, min_length=1, description="A reward that is only watched, not trained for"
    )
    watch_every: Int = Field(50, ge=1, description="Steps between two looks at it")
    watch_images: Int = Field(64, ge=4, description="Images of such a look")
    patience: Int = Field(
        5, ge=1, description="Looks at a fallen reward or diversity before the run stops"
    )
    tolerance: Real = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share that the diversity may fall by from the start, and the held-out reward "
        "from its best, before it counts",
    )

    @model_validator(mode="after")
    def _holds_out(self) -> RewardSpec:
        if self.held_out in self.terms:
            raise ValueError(
                f"held_out is {self.held_out}, which is trained for: name another reward, or null"
            )
        return self


class RefineAuxiliarySpec(AuxiliarySpec):
    """The auxiliary of a refinement, which starts at the teacher or goes on from the run before."""

    start: Literal["teacher", "run"] = Field(
        "teacher",
        description="What the auxiliary starts as: the teacher, with which Di[M]O asks for nothing "
        "at first, or the auxiliary of the run that `start` is the student of",
    )


def _weight_or_off(data: object) -> object:
    return 1.0 if data is True else 0.0 if data is False else data


class RefineSpec(DistillSpec):
    """A Soft-Di[M]O run (Eq. 10): Di[M]O, adversarial and reward losses together."""

    start: Annotated[
        str | None, Flag(names=("student",), completion="students", is_argument=True)
    ] = Field(
        None,
        min_length=1,
        description="Student to start from: run folder (RUN@best, RUN@last, RUN@step-N: a "
        "checkpoint of it), student folder, Hub id; `teacher`: none, but the teacher's own weights "
        "(Fig. 10)",
    )
    distill_weight: Annotated[Real, BeforeValidator(_weight_or_off)] = Field(
        1.0, ge=0, description="Weight of the Di[M]O loss; 0 switches it and the auxiliary off"
    )
    auxiliary: RefineAuxiliarySpec = Field(
        default_factory=RefineAuxiliarySpec,
        description="The network that tracks the student's own tokens",
    )
    relax: RelaxSpec = Field(default_factory=RelaxSpec, description="The gradient's way back")
    gan: GanSpec = Field(default_factory=GanSpec, description="Adversarial fine-tuning")
    reward: RewardSpec = Field(default_factory=RewardSpec, description="Reward fine-tuning")

    @property
    def method(self) -> str:
        """What this way of training is called, with its losses."""
        losses = [self.masked_method] if self.distill_weight else []
        losses += [f"GAN weight {self.gan.weight}"] if self.gan.enabled else []
        losses += [f"Di-Bregman {self.gan.bregman}"] if self.gan.bregman != "reverse_kl" else []
        losses += [f"reward {name} {weight:g}" for name, weight in self.reward.terms.items()]
        return f"Soft-Di[M]O ({', '.join(losses)})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of its objectives beside discriminator and rewards."""
        return super().kinds if self.distill_weight else ()

    @property
    def compares_samples(self) -> str | None:
        """What of a run compares a pass's samples with one another; None: nothing does."""
        if self.gan.bregman != "reverse_kl":
            return f"gan.bregman is {self.gan.bregman}"
        if self.relax.kind == "reinforce" and (self.gan.enabled or self.reward.terms):
            return "relax.kind is reinforce"
        return super().compares_samples

    @model_validator(mode="after")
    def _some_loss(self) -> RefineSpec:
        if not (self.distill_weight or self.gan.enabled or self.reward.terms):
            raise ValueError("distill_weight is 0, and neither --gan nor --reward is given")
        if self.loss.student_input != "x_init":
            raise ValueError("loss.student_input must be x_init in a refinement")
        if self.gan.weight == "auto" and not self.distill_weight:
            raise ValueError("gan.weight auto needs the Di[M]O loss: set distill_weight above 0")
        if self.auxiliary.start == "run" and not self.distill_weight:
            raise ValueError(
                "auxiliary.start run needs the Di[M]O loss: set distill_weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _samples_can_be_weighed(self) -> RefineSpec:
        if self.gan.bregman != "reverse_kl" and (reason := self._no_bregman()) is not None:
            raise ValueError(f"gan.bregman is {self.gan.bregman}, but {reason}")
        return self

    def _no_bregman(self) -> str | None:
        """Why samples of the Di[M]O loss cannot be weighed by a discriminator; None if they can."""
        if not self.gan.enabled:
            return "there is no discriminator to weigh samples by: add --gan (gan.enabled=true)"
        if not self.distill_weight:
            return "distill_weight is 0, and what it weighs is the Di[M]O loss: set it above 0"
        if reason := beyond_reverse_kl(self.objectives, self.loss.divergence.kind):
            return (
                f"{reason}, and only samples of a reverse KL are weighed: set loss.divergence=rkl, "
                "or use objective idlm"
            )
        if self.loss.revealed_credit:
            return (
                f"loss.revealed_credit is {self.loss.revealed_credit:g}, which is right only for "
                "weights that do not depend on what was drawn: use one of them"
            )
        return None


def reward_names(spec: RefineSpec) -> list[str]:
    """The rewards that are loaded: those that count, and the one that is only watched."""
    held_out = spec.reward.held_out
    return [*spec.reward.terms, *([held_out] if held_out else [])]
