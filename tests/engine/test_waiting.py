"""On a card a step that logs nothing asks for nothing: Python runs ahead of it."""

import contextlib
from dataclasses import replace

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.optimizer import Ema, NetworkOptimizer
from dimo_cli.engine.refine import Refinement
from dimo_cli.engine.verdict import Verdict
from dimo_cli.specs.optimizer import OptimizerSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.protocol import Cond
from tests.conftest import small_spec
from tests.helpers.syncs import CardGenerator, on_card, pretended_card
from tests.helpers.tiny import FAMILIES, tiny_teacher


def brightness(images, texts):
    return images.mean((1, 2, 3))


class RealDigits:
    """Real images on the host, from which only a generator on the host can choose."""

    def draw(self, count, generator, rows=slice(None)):
        assert generator.device.type == "cpu"
        tokens = torch.randint(16, (count, 64, 1), generator=generator)[rows]
        return tokens, Cond({"label": torch.zeros(len(tokens), dtype=torch.long)})


def waits_of(name, measure=False, build=Distillation, **groups):
    """Where a step of a family asks the card, after one that made all that stays."""
    spec = small_spec(**groups)
    teacher = tiny_teacher(name)
    with pretended_card() as card:
        teacher = replace(
            teacher, backbone=on_card(teacher.backbone), tokenizer=on_card(teacher.tokenizer)
        )
        run = build(teacher, spec, CardGenerator("cpu"), contextlib.nullcontext)
        ema = Ema(on_card(run.student), run.student)
        run.step(0)
        card.syncs.clear()
        run.step(1, measure)
        ema.update(0.9)
    return card.syncs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_every_family_asks_the_card_nothing(name):
    assert waits_of(name, teacher={"guidance": 2.0}) == []


@pytest.mark.parametrize(
    "groups",
    [
        {"train": {"accumulate": 2}},
        {"auxiliary": {"share_x_tilde": True}},
        {"auxiliary": {"fresh_samples": True, "updates": 2, "soft_weight": 0.5}},
        {"masking": {"content": "soft", "method": "bernoulli"}},
        {"loss": {"student_input": "x_tilde", "reduction": "masked_mean", "entropy_bonus": 0.1}},
        {"loss": {"weight": {"kind": "adaptive"}}, "init": {"embed_noise": 0.1}},
        {"init": {"mask_ratio": {"kind": "random"}}},
    ],
    ids=lambda groups: next(iter(next(iter(groups.values())))),
)
def test_neither_does_a_step_with_other_settings(groups):
    assert waits_of("digits", **groups) == []


@pytest.mark.parametrize("kind", ["soft", "gumbel_st", "reinforce"])
def test_neither_does_a_refinement_with_gan_and_reward(kind):
    def refinement(teacher, spec, generator, autocast):
        gan = {"enabled": True, "weight": "auto", "width": 16, "heads": 2}
        gan |= {"start": 0, "bregman": "jensen_shannon"}
        loss = {"divergence": "rkl"}
        reward = {"terms": {"clip": 1.0}, "weight": 1.0}
        groups = {"gan": gan, "reward": reward, "relax": {"kind": kind}, "loss": loss}
        return Refinement(
            teacher,
            RefineSpec.model_validate({**spec.model_dump(), **groups}),
            generator,
            autocast,
            start=teacher.backbone,
            data=RealDigits(),
            rewards={"brightness": (brightness, 1.0)},
        )

    assert waits_of("digits", build=refinement) == []


def test_a_step_that_is_measured_asks():
    """So the count counts."""
    assert len(waits_of("digits", measure=True)) > 3


def test_what_a_card_skips_is_told_later_with_the_network_that_was_first():
    verdict = Verdict(torch.device("cpu"))
    verdict.asks = False  # as on a card
    for bad in ((), ("auxiliary",), ("student", "auxiliary")):
        verdict.begin()
        for name in ("student", "auxiliary"):
            number = torch.tensor(torch.inf if name in bad else 1.0)
            assert not verdict.refuses(name, number)
        assert verdict.found_inf == bool(bad)
        verdict.end()
    assert verdict.read() == ({"auxiliary": 1, "student": 1}, 2)
    verdict.begin()
    verdict.end()
    assert verdict.read() == ({}, 0)


def test_a_network_that_is_bad_in_two_updates_of_a_step_is_bad_in_the_step():
    verdict = Verdict(torch.device("cpu"))
    verdict.asks = False  # as on a card
    verdict.begin()
    for _ in range(2):
        verdict.refuses("auxiliary", torch.tensor(torch.nan))
    verdict.end()
    assert verdict.read() == ({"auxiliary": 1}, 1)


@pytest.mark.parametrize(("gradient", "unless"), [(torch.nan, 0.0), (1.0, 1.0)])
def test_an_optimizer_that_is_not_asked_moves_nothing_where_something_is_not_finite(
    gradient, unless
):
    network = torch.nn.Linear(2, 1)
    optimizer = NetworkOptimizer(network, OptimizerSpec(warmup_steps=0), 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.update(1, unless=torch.tensor(unless))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.update(1, unless=torch.tensor(0.0))
    assert not torch.equal(network.weight, before["weight"])
