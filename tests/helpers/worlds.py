"""Worlds so small that everything can be counted: teacher, students and auxiliaries as tables.

A state has a code or the mask in each of its S slots. `conditional` is what the teacher says in
each state, `posterior` what an auxiliary says that knows the student's outputs exactly.
"""

from dataclasses import dataclass
from math import comb

import torch


@dataclass(frozen=True)
class World:
    """A joint law and what follows from it."""

    tensors: dict
    states: torch.Tensor
    """Every state [N, S]."""
    teacher: torch.Tensor
    """The teacher's predictions [N, S, V]."""

    @property
    def masked(self):
        """Which slots are masked [N, S]."""
        return self.states == self.teacher.shape[-1]

    @property
    def counts(self):
        """How many of them [N]."""
        return self.masked.sum(-1)


@dataclass(frozen=True)
class Student:
    """A student that sees one of I inputs, and draws each slot by itself."""

    probs: torch.Tensor
    """[I, S, V]."""
    weights: torch.Tensor
    """How likely each input is [I]."""
    auxiliary: torch.Tensor
    """The exact auxiliary [N, S, V]."""
    tensors: dict

    def reaches(self, world, probability):
        """P(state) for each input [I, N], where k slots are masked with `probability` [S]."""
        slots = world.states.shape[1]
        codes = world.states.masked_fill(world.masked, 0)
        drawn = self.probs[:, torch.arange(slots), codes].masked_fill(world.masked, 1).prod(-1)
        law = torch.tensor([0.0, *probability.tolist()], dtype=drawn.dtype)
        subsets = torch.tensor([comb(slots, k) for k in range(slots + 1)], dtype=drawn.dtype)
        return drawn * (law / subsets)[world.counts]


def world_of(tensors):
    return World(tensors, tensors["states"], tensors["conditional"])


def student_of(tensors, name):
    own = {k.removeprefix(f"student.{name}."): t for k, t in tensors.items() if f".{name}." in k}
    probs = own["logits"].softmax(-1)
    states = len(tensors["states"])
    auxiliary = own.get("posterior")
    if auxiliary is None:
        auxiliary = probs.expand(states, *probs.shape[1:])
    return Student(probs, own["weights"], auxiliary, own)


def expected_gradient(world, student, law, gradient_of):
    """What the student's logits [I, S, V] are asked for on average, and each slot's terms.

    `gradient_of(p, psi, phi)` has the shape [I, N, S, V] of its arguments.
    """
    probability, weight = (world.tensors[f"law.{law}.{part}"] for part in ("probability", "weight"))
    p = student.probs[:, None].expand(-1, len(world.states), -1, -1)
    gradient = gradient_of(p, student.auxiliary.expand_as(p), world.teacher.expand_as(p))
    chance = student.weights[:, None] * student.reaches(world, probability)
    scale = torch.cat([weight.new_zeros(1), weight])[world.counts]
    terms = (chance * scale)[..., None, None] * world.masked[None, :, :, None] * gradient
    return terms.sum(1)
