"""What a Di[M]O distillation run is, field by field. Equation numbers are those of the papers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dimo_cli.specs.averaging import EmaSpec
from dimo_cli.specs.base import Int, Real, Spec, shorthand
from dimo_cli.specs.divergences import (
    AdaptiveWeight,
    CalibratedWeight,
    ConstantWeight,
    Divergence,
    ForwardKL,
)
from dimo_cli.specs.init import InitSpec, MaskingSpec
from dimo_cli.specs.lora import AuxiliaryLoraSpec, LoraSpec
from dimo_cli.specs.monitor import MonitorSpec
from dimo_cli.specs.objectives import COMPARING, Objective
from dimo_cli.specs.optimizer import OptimizerSpec
from dimo_cli.specs.teacher import TeacherSpec
from dimo_cli.specs.train import RecoverySpec, TrainSpec

TITLES = {
    "dimo": "Di[M]O",
    "idlm": "IDLM",
    "dmmd": "D-MMD",
    "redi": "ReDi",
    "sdtt": "SDTT",
    "di4c": "Di4C",
    "fpd": "FPD",
    "catdrift": "CatDrift",
}


class ConditionSpec(Spec):
    """What the student is conditioned on while it trains. Classes need no setting."""

    prompts: str | None = Field(
        None,
        min_length=1,
        description="Text file with one prompt per line, or "
        "hub:OWNER/NAME:COLUMN for a dataset of the Hub; needed by, and only for, text teachers",
    )


class LossSpec(Spec):
    """The gradient that the student receives at its logits (Eq. 7)."""

    divergence: Divergence = Field(
        default_factory=ForwardKL,
        description="Token-level divergence between teacher and auxiliary",
    )
    weight: Annotated[
        ConstantWeight | AdaptiveWeight | CalibratedWeight,
        Field(discriminator="kind"),
        shorthand("value", "constant"),
    ] = Field(default_factory=ConstantWeight, description="The weight w(t)")
    student_input: Literal["x_init", "x_tilde", "x_tilde_init"] = Field(
        "x_init",
        description="Where z_theta(x_tilde) is approximated (Fig. 12): at x_init, at x_tilde "
        "itself, or at x_theta under the mask of x_init; only the first trains well",
    )
    reduction: Literal["sum", "mean", "masked_mean"] = Field(
        "sum",
        description="Sum over masked tokens over batch (released code), mean over all logits, "
        "or mean over each sample's masked tokens (paper)",
    )
    teacher_temperature: Real = Field(1.0, gt=0, le=100, description="Divides teacher logits")
    auxiliary_temperature: Real = Field(1.0, gt=0, le=100, description="Divides auxiliary logits")
    revealed_credit: Real = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the credit of revealed tokens, the part of the KL's gradient that "
        "masked tokens leave out: 1 with weight calibrated is the whole gradient. For divergence "
        "rkl and objective idlm; it needs about twice the work of the head",
    )
    entropy_bonus: Real = Field(
        0.0,
        ge=-10,
        description="Weight of the student's entropy, added as in PPO (supplement E.14); below 0 "
        "it sharpens",
    )
    chunk_tokens: Int | None = Field(
        None,
        ge=1,
        description="Positions projected to the vocabulary at a time; null: as many as fill 8 MiB, "
        "or 48 MiB on a GPU. It changes memory and time, not what is computed",
    )


MOST_STEPS = 8  # of a student; a teacher takes hardly more


def _one_as_several(data: Any) -> Any:
    """Let `4` stand for `[4]`."""
    return [data] if isinstance(data, (int, float, str)) else data


class StudentSpec(Spec):
    """The generator in one step, or in a few (theta)."""

    steps: Annotated[
        tuple[Annotated[Int, Field(ge=1, le=MOST_STEPS)], ...], BeforeValidator(_one_as_several)
    ] = Field(
        (1,),
        min_length=1,
        description="In how many steps images are drawn, 1 to 8: one number, or several that one "
        "student is trained for, as [1, 2, 4]. Each step draws all tokens that are missing and "
        "keeps a random part of them, as many as the teacher's mask schedule says; it is trained "
        "on what the student itself has kept by then",
    )

    optimizer: OptimizerSpec = Field(
        default_factory=OptimizerSpec, description="Optimizer of the student"
    )
    ema: EmaSpec = Field(default_factory=EmaSpec, description="Averaging of the weights")
    freeze_embeddings: bool = Field(
        True, description="Keep the token embeddings of student and auxiliary fixed"
    )
    temperature: Real = Field(
        1.0, gt=0, le=1000, description="Sampling temperature after training, kept in the manifest"
    )
    lora: LoraSpec = Field(
        default_factory=LoraSpec, description="Adapters over the teacher's weights"
    )
    latent: bool = Field(
        False,
        description="Give it a number from 0 to 1 for each image, as one more token: a mixture "
        "over those can make tokens agree that are drawn in one step (di4c)",
    )

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(steps)))

    @property
    def in_one_step(self) -> bool:
        """Whether it is trained for one step and nothing else."""
        return self.steps == (1,)

    @property
    def passes_before(self) -> float:
        """Passes of the student that lead to the step that is trained, on average."""
        if self.in_one_step:
            return 0
        later = sum(count - 1 for count in self.steps)  # the first step is the same for all
        return sum(count * (count - 1) / 2 for count in self.steps) / (1 + later)

    @model_validator(mode="after")
    def _adapters_leave_the_rest(self) -> StudentSpec:
        if self.lora.rank and self.latent:
            raise ValueError(
                "latent adds weights that are trained whole, and lora trains adapters alone; use "
                "one of them"
            )
        if self.lora.rank and not self.freeze_embeddings:
            raise ValueError(
                "freeze_embeddings false trains the token embeddings, and lora trains adapters "
                "alone; use one of them"
            )
        if self.lora.rank and self.ema.offload:
            raise ValueError(
                "ema.offload has nothing to save with lora: the average is of the adapters alone; "
                "leave it out"
            )
        return self


class AuxiliarySpec(Spec):
    """The network (psi) that tracks the student's own tokens. It must outrun the student: if its
    loss stays far above the student's entropy, raise its rate or its number of updates."""

    optimizer: OptimizerSpec = Field(
        default_factory=OptimizerSpec,
        description="Optimizer of the auxiliary; keep its rate at or above the student's "
        "(small models: about five times)",
    )
    updates: Int = Field(1, ge=1, le=100, description="Updates of the auxiliary per student update")
    fresh_samples: bool = Field(
        False, description="Generate a new batch for each auxiliary update (released code)"
    )
    share_x_tilde: bool = Field(
        False,
        description="Reuse the student's x_tilde and auxiliary forward in the first auxiliary "
        "update: saves a forward; the paper draws them apart",
    )
    knows_step: bool = Field(
        True,
        description="Of a student of several steps, tell it which step an image is from, by a "
        "vector that it learns for each: it then knows the law of each step, and not only that of "
        "all together",
    )
    soft_weight: Real = Field(
        0.0, ge=0, le=1, description="alpha of Eq. 19: share of the soft-target loss"
    )
    soft_temperature: Real = Field(
        1.0, gt=0, le=100, description="Temperature of both sides of the soft target"
    )
    label_smoothing: Real = Field(
        0.0, ge=0, lt=1, description="Smoothing of the hard target over all ids"
    )

    lora: AuxiliaryLoraSpec = Field(
        default_factory=AuxiliaryLoraSpec, description="Adapters over the teacher's weights"
    )

    @model_validator(mode="after")
    def _sharing_needs_the_same_tokens(self) -> AuxiliarySpec:
        if self.share_x_tilde and self.fresh_samples:
            raise ValueError("share_x_tilde and fresh_samples exclude each other")
        return self


class DistillSpec(Spec):
    """A Di[M]O distillation run (Algorithm 1)."""

    teacher: TeacherSpec = Field(default_factory=TeacherSpec, description="The frozen teacher")
    condition: ConditionSpec = Field(
        default_factory=ConditionSpec, description="The condition dataset"
    )
    init: InitSpec = Field(default_factory=InitSpec, description="The student's input")
    masking: MaskingSpec = Field(default_factory=MaskingSpec, description="Forward masking")
    loss: LossSpec = Field(default_factory=LossSpec, description="The student's gradient")
    objectives: tuple[Objective, ...] = Field(
        (),
        max_length=16,
        description="What the student is trained for: names such as dimo, idlm or dmmd, or groups "
        "of a kind, a weight and its settings, whose gradients are summed; none: dimo, whose "
        "divergence is `loss.divergence`",
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="Folder of real images as tokens (`dimo data encode`), for objectives that "
        "learn from images; null: what ships with the teacher",
    )
    student: StudentSpec = Field(default_factory=StudentSpec, description="The one-step generator")
    auxiliary: AuxiliarySpec = Field(
        default_factory=AuxiliarySpec, description="The auxiliary model"
    )
    train: TrainSpec = Field(default_factory=TrainSpec, description="The training loop")
    recovery: RecoverySpec = Field(
        default_factory=RecoverySpec, description="Non-finite losses and gradients"
    )
    monitor: MonitorSpec = Field(default_factory=MonitorSpec, description="Previews and numbers")

    @property
    def method(self) -> str:
        """What this way of training is called."""
        return self.masked_method

    @property
    def masked_method(self) -> str:
        """What the losses at masked positions are called."""
        return " + ".join(TITLES.get(o.kind, o.kind) for o in self.objectives) or "Di[M]O"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of its objectives."""
        return tuple(one.kind for one in self.objectives) or ("dimo",)

    @property
    def auxiliary_lora(self) -> LoraSpec:
        """The auxiliary's adapters; rank 0: none."""
        return self.auxiliary.lora.beside(self.student.lora)

    @property
    def knows_step(self) -> bool:
        """Whether the auxiliary is told which step an image is from."""
        return self.auxiliary.knows_step and self.student.steps[-1] > 1

    @property
    def compares_samples(self) -> str | None:
        """What of a run compares a pass's samples with one another; None: nothing does."""
        named = (f"`objectives` names {kind}" for kind in self.kinds if kind in COMPARING)
        return next(named, None)

    @property
    def least_pass(self) -> int:
        """The fewest samples of a pass."""
        return 1 if self.compares_samples is None else 2

    @model_validator(mode="after")
    def _passes_have_samples_to_compare(self) -> DistillSpec:
        train = self.train
        if min(train.pass_size, train.batch_size * train.accumulate) < self.least_pass:
            raise ValueError(
                f"{self.compares_samples}, but samples of a pass are compared with one another "
                "there, and a pass has one: set train.batch_size and train.micro_batch to 2 or more"
            )
        return self

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        kinds = [one.kind for one in objectives]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ValueError(
                f"{twice} is named more than once, and what it trains and logs is kept by its "
                "name: name it once, with the weight that it is to have"
            )
        return objectives

    @model_validator(mode="after")
    def _whole_images_are_drawn_at_x_init(self) -> DistillSpec:
        whole = [kind for kind in self.kinds if kind in COMPARING]
        if whole and self.loss.student_input != "x_init":
            raise ValueError(
                f"loss.student_input is {self.loss.student_input}, but `objectives` names "
                f"{whole[0]}, which is about images that the student draws at x_init: set "
                "loss.student_input to x_init"
            )
        return self

    @model_validator(mode="after")
    def _steps_go_on_from_kept_tokens(self) -> DistillSpec:
        if self.student.in_one_step:
            return self
        for name, value, needed in (
            ("loss.student_input", self.loss.student_input, "x_init"),
            ("loss.weight", self.loss.weight.kind, "constant or calibrated"),
            ("init.control", self.init.control, "none"),
        ):
            if value not in needed.split(" or "):
                told = " and ".join(map(str, self.student.steps))
                raise ValueError(f"student.steps {told} needs {name} {needed}, not {value}")
        return self

    @model_validator(mode="after")
    def _auxiliary_has_a_scale(self) -> DistillSpec:
        lora = self.auxiliary.lora
        if lora.alpha is not None and lora.rank == "student" and not self.student.lora.rank:
            raise ValueError("auxiliary.lora.alpha needs auxiliary.lora.rank above 0")
        return self

    @model_validator(mode="after")
    def _noise_needs_all_weights(self) -> DistillSpec:
        if self.init.noise is not None and self.student.lora.rank:
            raise ValueError(
                "init.noise has a network of its own beside the student's, which adapters leave no "
                "place for: set student.lora.rank to 0, or init.noise to null"
            )
        return self

    @model_validator(mode="after")
    def _bridge_needs_steps(self) -> DistillSpec:
        if self.masking.bridge and self.student.in_one_step:
            raise ValueError(
                "masking.bridge needs student.steps above 1: in one step nothing is kept"
            )
        return self

    @model_validator(mode="after")
    def _sharing_needs_one_schedule(self) -> DistillSpec:
        if self.auxiliary.share_x_tilde and self.masking.student != self.masking.auxiliary:
            raise ValueError(
                "auxiliary.share_x_tilde needs masking.student and masking.auxiliary to be equal"
            )
        return self

    @model_validator(mode="after")
    def _calibrated_weight_is_for_a_sum(self) -> DistillSpec:
        if isinstance(self.loss.weight, CalibratedWeight) and self.loss.reduction != "sum":
            raise ValueError(
                f"loss.weight calibrated needs loss.reduction sum, not {self.loss.reduction}"
            )
        return self

    @model_validator(mode="after")
    def _run_is_long_enough_for_snapshots(self) -> DistillSpec:
        every, steps = self.student.ema.post_hoc.every, self.train.steps
        if every is not None and 2 * every > steps:
            raise ValueError(
                f"student.ema.post_hoc.every ({every}) must be at most half of train.steps "
                f"({steps}): other averages are put together from several snapshots"
            )
        return self

    @model_validator(mode="after")
    def _bf16_needs_cuda(self) -> DistillSpec:
        if self.train.precision == "bf16" and self.train.device == "cpu":
            raise ValueError(
                "train.precision bf16 is far slower than fp32 on a CPU; use fp32 or device cuda"
            )
        return self
