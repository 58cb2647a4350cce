"""What the page of `dimo play` may ask for. Limits keep one request a matter of seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from dimo_cli.specs.base import Int, Real, Spec

MOST_IMAGES, MOST_STEPS = 16, 256
MOST_STARTS, MOST_ITERATIONS = 16, 64
LONGEST_PROMPT = 1000


class Ask(Spec):
    """What every request says."""

    condition: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_PROMPT)
    ] = Field(description="A prompt, or a class by number or name")
    seed: Int = Field(0, ge=0, lt=2**31, description="Fixes what is drawn at random")


class DrawAsk(Ask):
    """Images in one step."""

    count: Int = Field(4, ge=1, le=MOST_IMAGES, description="Number of images")
    temperature: Real | None = Field(
        None, gt=0, le=1000, description="Divides the logits; null: the student's own"
    )
    r_init: Real | None = Field(
        None, ge=0, le=1, description="Share of mask tokens in the input; null: the student's own"
    )


class TeacherAsk(Ask):
    """The same by the teacher, in several steps."""

    count: Int = Field(4, ge=1, le=MOST_IMAGES, description="Number of images")
    steps: Int = Field(ge=1, le=MOST_STEPS, description="Steps of the teacher")
    watch: bool = Field(False, description="Also show what there is after each step")


class TteoAsk(Ask):
    """A prompt whose input embeddings are optimized while the page looks on."""

    starts: Int = Field(4, ge=1, le=MOST_STARTS, description="Initial sequences")
    iterations: Int = Field(8, ge=0, le=MOST_ITERATIONS, description="Updates of each start")
    learning_rate: Real = Field(0.2, gt=0, le=1000, description="Step size of SGD")


# As the page calls them, so that a refusal names what a person sees.
LABELS = {
    "condition": "Prompt or class",
    "seed": "Seed",
    "count": "Images",
    "temperature": "Temperature",
    "r_init": "r_init",
    "steps": "Teacher steps",
    "watch": "Watching",
    "starts": "Starts",
    "iterations": "Iterations",
    "learning_rate": "Step size",
}
