"""The commands that a preset's page shows: to run it, to draw with what it made, to edit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What the pages draw: of teachers in the package each what it knows, of published ones anything.
DRAWN = {
    "digits": "--class 7",
    "shapes": '--prompt "two red circles above a blue square"',
    "emoji": '--prompt "a red apple"',
}
PROMPTED, CLASSED = '--prompt "a red fox in the snow"', '--class "golden retriever"'


@dataclass(frozen=True)
class Recipe:
    """Commands in their order, and what has to be said of them."""

    run: list[str]
    draw: list[str]
    edit: list[str]
    needs: str = ""
    not_counted: str = ""
    """What comes on top of the memory that was worked out."""


def distill_recipe(name: str, spec: Any, takes_prompts: bool, embedded: bool) -> Recipe:
    """For a preset that makes a student."""
    prompts = " --set condition.prompts=prompts.txt" if takes_prompts and not embedded else ""
    asked = DRAWN.get(spec.teacher.name, PROMPTED if takes_prompts else CLASSED) + " -n 4"
    return Recipe(
        run=[
            f"dimo doctor --preset {name}",
            f"dimo distill --preset {name}{prompts} --dry-run",
            f"dimo distill --preset {name}{prompts} --out runs/{name}",
        ],
        draw=[
            f"dimo sample --student runs/{name} {asked}",
            f"dimo sample --preset {name} --teacher {asked}",
        ],
        edit=[
            f"dimo presets cp {name} mine.yaml",
            "dimo spec check mine.yaml",
            f"dimo distill --spec mine.yaml{prompts} --set train.steps={spec.train.steps // 2}",
        ],
        needs="`prompts.txt` has one prompt per line: what the student will learn to draw."
        if prompts
        else "",
    )


def refine_recipe(name: str, spec: Any, takes_prompts: bool, embedded: bool) -> Recipe:
    """For a preset that makes a student better."""
    teacher = spec.teacher.name
    student = teacher if embedded else f"runs/{teacher}"
    encode, given, needs = [], "", ""
    if spec.gan.enabled and not embedded:
        source = "photos" if takes_prompts else "imagenet/train"
        encode = [f"dimo data encode {source} --preset {teacher} --out data/{teacher}"]
        given = f" --set gan.data=data/{teacher}"
        needs = f"`data/{teacher}` holds your real images as tokens" + (
            ", with their captions (`name.txt` beside each image, or a captions.jsonl) as prompts."
            if takes_prompts
            else ", from a folder with a subfolder per class."
        )
    elif takes_prompts and not embedded:
        given = " --set condition.prompts=prompts.txt"
        needs = "`prompts.txt` has one prompt per line: what the student is rewarded for."
    fewer = spec.train.steps // 2
    extra = "The reward models come" if spec.reward.terms else "The discriminator comes"
    return Recipe(
        run=[
            *encode,
            f"dimo refine {student} --preset {name}{given} --dry-run",
            f"dimo refine {student} --preset {name}{given} --out runs/{name}",
        ],
        draw=[],
        edit=[
            f"dimo presets cp {name} mine.yaml",
            "dimo spec check mine.yaml --refine",
            f"dimo refine {student} --spec mine.yaml{given} --set train.steps={fewer}",
        ],
        needs=needs,
        not_counted=f"{extra} on top.",
    )
