"""A frozen Show-o reads each prompt once, and what it remembers changes no number."""

import copy

import pytest
import torch

from dimo_cli.engine.many_steps import sample_by_plan
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.showo import memory
from tests.helpers.tiny import tiny_teacher


@pytest.fixture
def teacher():
    return tiny_teacher("showo")


@pytest.fixture
def backbone(teacher):
    return teacher.backbone


def prompts(backbone, words, generator):
    """A condition of random prompts of so many words each."""
    arch = backbone.arch
    ids = torch.full((len(words), arch.text_length), arch.special("[PAD]"))
    for row, count in zip(ids, words, strict=True):
        row[-count:] = torch.randint(arch.llm_vocab_size, (count,), generator=generator)
    return Cond({"ids": ids})


@pytest.fixture
def cond(backbone, generator):
    return prompts(backbone, (6, 2, 4), generator)


@pytest.fixture
def tokens(teacher, generator):
    space = teacher.space
    return torch.randint(space.codes + 1, (3, space.length, 1), generator=generator)


def plainly(backbone):
    """The same network, which may change with each step and remembers nothing."""
    return copy.deepcopy(backbone).requires_grad_(True)


def rows_seen(backbone):
    """Of each pass through the first layer: how many samples and places it had."""
    seen = []
    backbone.layers[0].register_forward_hook(lambda _, given, got: seen.append(given[0].shape[:2]))
    return seen


@torch.no_grad()
def test_logits_are_the_same_with_remembered_prompts_and_without(backbone, tokens, cond):
    expected = plainly(backbone)(tokens, cond)
    for _ in range(2):
        torch.testing.assert_close(backbone(tokens, cond), expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_same_also_when_prompts_were_read_while_sampling(
    backbone, tokens, cond
):
    with torch.inference_mode():
        backbone(tokens, cond)
    gradients = []
    for network in (plainly(backbone), backbone):
        embeds = network.embed(tokens).detach().requires_grad_()
        network.head(network.hidden(embeds, cond)).square().sum().backward()
        gradients.append(embeds.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_a_sampler_reads_each_prompt_once_however_many_steps_it_takes(teacher, generator):
    backbone, seen = teacher.backbone, rows_seen(teacher.backbone)
    cond = prompts(backbone, (5, 3), generator)
    twice = Cond.cat([cond, cond])
    null = prompts(backbone, (2,), generator)
    teacher.conditioner.null = lambda count: Cond.cat([null] * count)
    sampler, length = teacher.sampler, teacher.space.length
    sample_by_plan(teacher, twice, sampler.plan(6, length, 2.0, 1.0), generator)
    text, image = backbone.arch.text_length, length + 2
    assert [samples for samples, places in seen if places == text] == [3]  # two and the empty one
    assert [samples for samples, places in seen if places == image] == [8] * 6
    sample_by_plan(teacher, cond, sampler.plan(2, length, 2.0, 1.0), generator)
    assert len([places for _, places in seen if places == text]) == 1


@torch.no_grad()
def test_only_prompts_that_are_new_are_read(backbone, tokens, cond, generator):
    seen = rows_seen(backbone)
    backbone(tokens, cond)
    more = Cond.cat([cond[:2], prompts(backbone, (3,), generator)])
    backbone(tokens, more)
    text = backbone.arch.text_length
    assert [samples for samples, places in seen if places == text] == [3, 1]


def test_a_network_in_training_reads_prompts_anew_and_learns_from_them(backbone, tokens, cond):
    network, text = plainly(backbone), backbone.arch.text_length
    seen = rows_seen(network)
    for _ in range(2):
        network(tokens, cond).square().sum().backward()
    assert [places for _, places in seen] == [text + tokens.shape[1] + 2] * 2
    used = cond.tensors["ids"].unique()
    assert network.table.grad[used[used < network.arch.llm_vocab_size]].abs().sum(-1).min() > 0


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "replaced", "precision"])
def test_prompts_are_read_again_once_the_weights_are_others(backbone, tokens, cond, change):
    backbone(tokens, cond)
    layer = backbone.layers[0].self_attn.k_proj
    if change == "in place":
        layer.weight.mul_(2)
    elif change == "replaced":
        layer.weight = torch.nn.Parameter(2 * layer.weight, requires_grad=False)
    else:
        backbone.double()
    torch.testing.assert_close(backbone(tokens, cond), plainly(backbone)(tokens, cond))


@torch.no_grad()
def test_half_precision_has_a_memory_of_its_own(backbone, tokens, cond):
    whole = backbone(tokens, cond)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(backbone(tokens, cond), plainly(backbone)(tokens, cond))
    assert torch.equal(backbone(tokens, cond), whole)


def test_a_copy_remembers_nothing(backbone, tokens, cond):
    backbone(tokens, cond)
    assert backbone.memory.rows
    assert not copy.deepcopy(backbone).memory.rows


@torch.no_grad()
def test_the_oldest_prompts_are_forgotten_where_memory_is_short(
    backbone, tokens, cond, generator, monkeypatch
):
    backbone(tokens, cond)
    one = next(iter(backbone.memory.rows.values())).nbytes
    monkeypatch.setattr(memory, "MOST_BYTES", 4 * one)
    first = cond[:1]
    backbone(tokens, Cond.cat([first, prompts(backbone, (3, 5), generator)]))
    assert len(backbone.memory.rows) == 4
    seen = rows_seen(backbone)
    backbone(tokens[:1], first)
    assert len(seen) == 1
    monkeypatch.setattr(memory, "MOST_BYTES", 0)
    expected = plainly(backbone)(tokens, cond)
    torch.testing.assert_close(backbone(tokens, cond), expected, atol=1e-5, rtol=1e-5)
    assert len(backbone.memory.rows) == 3  # those at work stay


def test_shapes_alone_are_enough_for_a_plan(teacher):
    backbone = copy.deepcopy(teacher.backbone).to("meta")
    tokens = torch.zeros(2, teacher.space.length, 1, dtype=torch.long, device="meta")
    logits = backbone(tokens, teacher.conditioner.blank(2).to("meta"))
    assert logits.shape == (2, teacher.space.length, 1, teacher.space.vocab)
