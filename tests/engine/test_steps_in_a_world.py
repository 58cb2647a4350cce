"""What students of several steps come to in a world where their KL can be counted."""

import contextlib
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.rollout import open_counts
from dimo_cli.engine.step_vectors import vectors_of
from tests.conftest import small_spec
from tests.helpers.tabular import Table, tabular_teacher
from tests.helpers.worlds import world_of

ROOM = 8  # numbers of an embedding that no token has, for what is added to it


class Told(Table):
    """A table with a small network beside it that sees also what is added to its input."""

    def __init__(self, log_probs, groups):
        super().__init__(log_probs, groups)
        slots = log_probs.shape[1]
        self.lift = nn.Linear(slots * (self.codes + 1) + slots // groups * ROOM, 64)
        self.land = nn.Linear(64, slots * self.codes)
        for weight in self.land.parameters():
            nn.init.zeros_(weight)

    def embed(self, tokens):
        return nn.functional.pad(1e3 * super().embed(tokens), (0, ROOM))

    def hidden(self, embeds, cond, taps=()):
        seen, room = embeds[..., :-ROOM], embeds[..., -ROOM:]
        tokens = seen.unflatten(-1, (self.groups, self.codes + 1)).argmax(-1)
        own = torch.cat([super().embed(tokens).flatten(1), room.flatten(1)], -1)
        beside = self.land(self.lift(own).tanh()).view(*embeds.shape[:2], -1)
        return super().hidden(seen, cond) + beside


class Apart(Told):
    """A table for each step: what an auxiliary of its own for each of them would know."""

    def __init__(self, network, steps):
        super().__init__(network.table.detach(), network.groups)
        self.tables = nn.Parameter(network.table.detach().repeat(steps, 1, 1, 1))

    def hidden(self, embeds, cond, taps=()):
        step = int(embeds[0, 0, -ROOM:].argmax())
        return self.tables[step][self.states(embeds[..., :-ROOM])].view(*embeds.shape[:2], -1)


def trained(world, steps, apart=False, **groups):
    """A student of a world after some hundred steps, as a table [N, S, V] of probabilities."""
    torch.manual_seed(0)
    teacher = tabular_teacher(world)
    told = Told(world.teacher.log(), teacher.backbone.groups).requires_grad_(False)
    rates = {"warmup_steps": 0, "schedule": "linear", "beta1": 0.5}
    auxiliary = {"optimizer": {"learning_rate": 0.05, **rates}, "updates": 4}
    spec = small_spec(
        student={"steps": [steps], "optimizer": {"learning_rate": 0.01, **rates}},
        auxiliary={**auxiliary, **groups.get("auxiliary", {})},
        masking={"student": "linear", "auxiliary": "linear", **groups.get("masking", {})},
        loss={"divergence": "rkl", "weight": "calibrated"},
        init={"mask_ratio": 1.0, "embed_noise": 0.0},
        train={"steps": 400, "batch_size": 256},
    )
    generator = torch.Generator().manual_seed(0)
    told_teacher = replace(teacher, backbone=told)
    run = Distillation(told_teacher, spec, generator, contextlib.nullcontext)
    if apart:
        give_tables(run)
    for step in range(spec.train.steps):
        run.step(step)
    states = world.states.unflatten(1, (-1, told.groups))
    with torch.no_grad():
        said = run.student.head(run.student.hidden(run.student.embed(states), None))
    return said.flatten(1, 2).double().softmax(-1)


def give_tables(run):
    """Put an auxiliary of a table for each step in the place of the run's."""
    vectors = vectors_of(run.auxiliary)
    apart = Apart(run.auxiliary, len(vectors.steps))
    apart.step_vectors = vectors.requires_grad_(False)
    with torch.no_grad():
        vectors.vectors.copy_(torch.eye(*vectors.vectors.shape).roll(-ROOM, 1))
    run.auxiliary = apart
    run.auxiliary_optimizer.follow(apart)


def law_in_steps(table, codes, plan):
    """The law of what a table of predictions draws from masks alone, by counting all orders."""
    slots = table.shape[1]
    words = torch.tensor(list(itertools.product(range(codes), repeat=slots)))
    powers = (codes + 1) ** torch.arange(slots).flip(0)
    law = torch.zeros(len(words), dtype=torch.float64)
    orders = list(itertools.permutations(range(slots)))
    for order in map(torch.tensor, orders):
        chance, open_before = torch.ones_like(law), slots
        for still_open in plan:
            seen = torch.where(order >= open_before, words, codes)
            said = table[(seen * powers).sum(-1)].gather(-1, words[..., None]).squeeze(-1)
            drawn = (order < open_before) & (order >= still_open)
            chance, open_before = chance * said[:, drawn].prod(-1), still_open
        law += chance / len(orders)
    return law


def kl_in_steps(world, steps, **groups):
    """The KL of a trained student's images to the joint law of the world."""
    table, joint = trained(world, steps, **groups), world.tensors["joint"].flatten()
    q = law_in_steps(table, world.teacher.shape[-1], open_counts("arccos", steps, 3))
    return float((q * (q.log() - joint.log()).nan_to_num()).sum())


ALL, UNTOLD = {"masking": {"judged": "all"}}, {"auxiliary": {"knows_step": False}}


@pytest.fixture(scope="module")
def in_two_steps(golden):
    """The KL of two steps by whether the auxiliary is told which one, and what is judged."""
    world = world_of(golden("objectives/world_three.safetensors"))
    return {
        (is_told, judged): kl_in_steps(world, 2, **({} if is_told else UNTOLD), **more)
        for judged, more in (("kept", {}), ("all", ALL))
        for is_told in (True, False)
    }


@pytest.mark.slow
def test_an_auxiliary_that_is_told_the_step_makes_better_students(golden, in_two_steps):
    assert in_two_steps[True, "kept"] < 0.7 * in_two_steps[False, "kept"]
    assert in_two_steps[True, "all"] < in_two_steps[False, "all"]
    world = world_of(golden("objectives/world_three.safetensors"))
    assert in_two_steps[True, "kept"] < kl_in_steps(world, 2, apart=True), "which learns slower"


@pytest.mark.slow
def test_steps_are_better_judged_by_what_they_keep(golden, in_two_steps):
    for is_told in (True, False):
        assert in_two_steps[is_told, "kept"] < 0.75 * in_two_steps[is_told, "all"]
    world = world_of(golden("objectives/world_three.safetensors"))
    assert kl_in_steps(world, 3) < 0.03 < 0.1 < kl_in_steps(world, 3, **ALL)
