"""What a test-time embedding optimization is (Soft-Di[M]O, section 3.2.3; ReNO's loop)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from dimo_cli.specs.base import Flag, Int, Real, Spec

# ReNO's weights, which the paper keeps; scores as their models give them.
RENO_WEIGHTS = {"image_reward": 1.0, "hps_v2.1": 5.0, "clip": 0.01, "pickscore": 0.05}
SHAPES_WEIGHTS = {"shapes_clip": 1.0, "shapes_preference": 1.0}

MOST_STARTS, MOST_UPDATES, MOST_TEMPERATURE = 1024, 1000, 100


def read_budget(text: str) -> tuple[int, int]:
    """Starts and updates of each: of `4x2`, or of `bon16`, which is best of 16 without any."""
    found = re.fullmatch(r"bon(\d{1,4})|(\d{1,4})x(\d{1,4})", text)
    alone, starts, updates = found.groups() if found else (None, "0", "0")
    budget = (int(alone), 0) if alone else (int(starts), int(updates))
    if not (1 <= budget[0] <= MOST_STARTS and budget[1] <= MOST_UPDATES):
        raise ValueError(
            f"{text!r} is no budget: write 4x2 for 4 starts with 2 updates each, or bon16 for the "
            f"best of 16; at most {MOST_STARTS:,} starts and {MOST_UPDATES:,} updates"
        )
    return budget


def budget_name(starts: int, updates: int) -> str:
    """The budget as `read_budget` reads it."""
    return f"{starts}x{updates}" if updates else f"bon{starts}"


class TteoSpec(Spec):
    """Gradient ascent on the student's input embeddings (Eq. 11), from several starts."""

    starts: Int = Field(
        4, ge=1, le=MOST_STARTS, description="Initial sequences N, each a seed of its own"
    )
    iterations: Annotated[Int, Flag(names=("--iters",))] = Field(
        4, ge=0, le=MOST_UPDATES, description="Updates K of each start; 0: best of N alone"
    )
    learning_rate: Annotated[Real, Flag(names=("--rate",))] = Field(
        0.2, gt=0, description="Step size of SGD; `shapes` has 0.1"
    )
    momentum: Real = Field(0.9, ge=0, lt=1, description="Nesterov momentum of SGD; 0: none")
    clip_norm: Real | None = Field(
        None, gt=0, description="Largest gradient norm of a start; null: no limit"
    )
    temperature: Real = Field(1.0, gt=0, le=MOST_TEMPERATURE, description="Divides the logits")
    rewards: Annotated[
        dict[str, Annotated[Real, Field(gt=0)]],
        Flag(names=("--reward",), metavar="NAME=WEIGHT", completion="rewards"),
    ] = Field(
        default_factory=dict,
        description="What is to rise, by the gradient and by the selection; empty: what suits the "
        "teacher",
    )
    stop_at: Real | None = Field(
        None,
        description="Score at which a prompt needs no further update; null: all K are carried out",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: networks and rewards in half precision, faster on a card"
    )
    seed: Int = Field(0, ge=0, lt=2**31, description="Fixes the starts")
    decode: Literal["soft", "argmax"] = Field(
        "soft",
        description="The final image: of the soft codes that were scored, or of the likeliest ones",
    )
