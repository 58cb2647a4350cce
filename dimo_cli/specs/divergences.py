"""The divergences and weights of Eq. 7 as they are written in a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dimo_cli.specs.base import Real, Spec, shorthand


class ForwardKL(Spec):
    """KL(teacher || auxiliary): covers the teacher's modes."""

    kind: Literal["fkl"] = Field("fkl", description="Name of the divergence")


class ReverseKL(Spec):
    """KL(auxiliary || teacher): seeks the teacher's modes."""

    kind: Literal["rkl"] = Field("rkl", description="Name of the divergence")


class Jeffreys(Spec):
    """(1 - beta) forward KL + beta reverse KL; a negative beta goes past forward KL."""

    kind: Literal["jeffreys"] = Field("jeffreys", description="Name of the divergence")
    beta: Real = Field(0.0, ge=-2, le=2, description="Weight of the reverse KL")


class JensenShannon(Spec):
    """KL of both distributions to their middle."""

    kind: Literal["js"] = Field("js", description="Name of the divergence")


class SquaredHellinger(Spec):
    """Squared distance of the square roots."""

    kind: Literal["hellinger"] = Field("hellinger", description="Name of the divergence")


class AlphaDivergence(Spec):
    """The alpha divergence; alpha towards 0 is forward KL and towards 1 reverse KL."""

    kind: Literal["alpha"] = Field("alpha", description="Name of the divergence")
    alpha: Real = Field(0.5, ge=-3, le=4, description="Order; neither 0 nor 1")

    @model_validator(mode="after")
    def _not_a_limit(self) -> AlphaDivergence:
        if self.alpha in (0.0, 1.0):
            raise ValueError("alpha must be neither 0 (use kind fkl) nor 1 (use kind rkl)")
        return self


class RegisteredGenerator(Spec):
    """The f-divergence of a generator f registered by name (Eq. 17)."""

    kind: Literal["generator"] = Field("generator", description="Name of the divergence")
    name: str = Field(..., min_length=1, description="Registered name of the generator f")


Divergence = Annotated[
    ForwardKL
    | ReverseKL
    | Jeffreys
    | JensenShannon
    | SquaredHellinger
    | AlphaDivergence
    | RegisteredGenerator,
    Field(discriminator="kind"),
    shorthand("beta", "jeffreys"),
]


class ConstantWeight(Spec):
    """w(t) = value."""

    kind: Literal["constant"] = Field("constant", description="constant, adaptive or calibrated")
    value: Real = Field(1.0, gt=0, description="The weight itself")


class AdaptiveWeight(Spec):
    """One over the mean gap |p_theta(x_init) - p_phi(x_tilde)| of each sample (supplement D)."""

    kind: Literal["adaptive"] = Field("adaptive", description="constant, adaptive or calibrated")
    floor: Real = Field(1e-5, gt=0, description="Smallest gap to divide by")


class CalibratedWeight(Spec):
    """1 / (k P(k)) where k tokens are masked with probability P(k): the loss is then the KL between
    student and teacher, as far as the auxiliary has learned the student."""

    kind: Literal["calibrated"] = Field(
        "calibrated", description="constant, adaptive or calibrated"
    )
