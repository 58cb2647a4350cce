"""The student that draws where nobody names one: which of those in the package."""

from __future__ import annotations

from collections.abc import Sequence

from dimo_cli.teachers.emoji import world
from dimo_cli.teachers.shapes.network import words_of
from dimo_cli.teachers.shapes.world import vocabulary


def default_student(prompts: Sequence[str]) -> str:
    """`digits` without prompts; for prompts `emoji`, unless they are of squares and circles."""
    if not prompts:
        return "digits"
    spelled = [word for prompt in prompts for word in words_of(world.spelled(prompt))]
    words = [word for word in spelled if word not in world.FILLERS.union(world.ARTICLES)]
    strange = set(words).difference(vocabulary())
    if strange and all(world.read(prompt).scene.thing is not None for prompt in prompts):
        return "emoji"
    # Neither may draw it. The one that knows more of the words has the better advice.
    return "shapes" if 2 * sum(word in strange for word in words) < len(words) else "emoji"
