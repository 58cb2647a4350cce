"""A teacher that is a table: what it says in each state of a world, as a network of the engine."""

import torch
import torch.nn.functional as F
from torch import nn

from dimo_cli.teachers.plans import heuristic_plan
from dimo_cli.teachers.protocol import (
    Backbone,
    Cond,
    Conditioner,
    SamplerDefaults,
    Teacher,
    TokenSpace,
)


class Table(Backbone):
    """Log-probabilities [states, S, V] of every state, whose gradients are those at the logits."""

    def __init__(self, log_probs, groups):
        super().__init__()
        self.groups, self.codes = groups, log_probs.shape[-1]
        self.blocks = nn.ModuleList()
        self.table = nn.Parameter(log_probs.float().clamp(min=-1e4))

    def embed(self, tokens):
        return F.one_hot(tokens, self.codes + 1).float().flatten(2)

    def embed_probs(self, probs, mask=None):
        weights = F.pad(probs, (0, 1))
        if mask is not None:
            masked = F.one_hot(torch.tensor(self.codes), self.codes + 1).to(weights)
            weights = torch.where(mask[..., None], masked, weights)
        return weights.flatten(2)

    def states(self, embeds):
        tokens = embeds.unflatten(-1, (self.groups, self.codes + 1)).argmax(-1).flatten(1)
        places = torch.arange(tokens.shape[1] - 1, -1, -1)
        return (tokens * (self.codes + 1) ** places).sum(-1)

    def hidden(self, embeds, cond, taps=()):
        hidden = self.table[self.states(embeds)].view(*embeds.shape[:2], -1)
        return (hidden, [embeds] * min(len(taps), 2)) if len(taps) else hidden

    def head(self, hidden, positions=None):
        return hidden.unflatten(-1, (self.groups, self.codes))

    def embedding_parameters(self):
        return []


class NoCondition(Conditioner):
    """Every sample is of the one class that there is."""

    def null(self, count):
        return Cond({"label": torch.zeros(count, dtype=torch.long)})

    def draw(self, count, generator):
        return self.null(count)

    def blank(self, count):
        return self.null(count)


def tabular_teacher(world):
    """The teacher of a world of golden tensors (`helpers.worlds`)."""
    length, groups, codes = (int(size) for size in world.tensors["shape"])
    space = TokenSpace(length, groups, codes, codes, codes, image_size=1, grid=None)
    return Teacher(
        name="table",
        family="table",
        revision="",
        license="",
        space=space,
        backbone=Table(world.teacher.log(), groups).requires_grad_(False),
        tokenizer=None,
        conditioner=NoCondition(),
        sampler=SamplerDefaults(1, 1.0, heuristic_plan("arccos")),
    )


def state_numbers(tokens, codes):
    """The rows [B] of a table for tokens [B, S]."""
    places = torch.arange(tokens.shape[1] - 1, -1, -1)
    return (tokens * (codes + 1) ** places).sum(-1)
