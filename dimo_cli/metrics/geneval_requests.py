"""What a prompt of GenEval asks for, and the words that its files use for it."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from dimo_cli.errors import nearest
from dimo_cli.specs.base import Int, Spec

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]

Color = Literal[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"
]

Relation = Literal["left of", "right of", "above", "below"]

TAGS: tuple[str, ...] = get_args(Tag)

COLORS: tuple[str, ...] = get_args(Color)

# COCO's 80 classes in their order, three of them under GenEval's clearer names.
CLASSES = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink,
    refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace(
        "\n    ", " "
    ).split(", ")
)


class Objects(Spec):
    """So many objects of a class."""

    name: str = Field(alias="class")
    count: Int = Field(ge=1, le=16)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in CLASSES:
            guess = nearest(name, CLASSES)
            hint = f"; did you mean `{guess}`?" if guess else ""
            raise ValueError(f"{name!r} is not one of the 80 classes{hint}")
        return name


class Wanted(Objects):
    """Objects that must be there, of a color, or at a side of those of an earlier entry."""

    color: Color | None = None
    position: tuple[Relation, Int] | None = None


class Request(Spec):
    """What one prompt asks for; the benchmark's metadata."""

    tag: Tag
    include: tuple[Wanted, ...] = Field(min_length=1)
    exclude: tuple[Objects, ...] = ()
    prompt: str = Field(min_length=1)

    @model_validator(mode="after")
    def _looks_back(self) -> Request:
        for number, wanted in enumerate(self.include):
            if wanted.position and not 0 <= wanted.position[1] < number:
                raise ValueError(f"`position` of entry {number} names no earlier entry")
        return self
