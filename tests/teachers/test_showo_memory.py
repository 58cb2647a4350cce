"""A frozen Show-o reads each prompt once, and what it remembers changes no number."""

import contextlib
import copy

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.gan import Discriminator
from dimo_cli.engine.many_steps import sample_by_plan, sample_theta_trapezoidal
from dimo_cli.engine.tteo import optimize_embeddings, start_embeddings
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.showo import memory
from tests.conftest import small_spec
from tests.helpers.tiny import tiny_teacher


@pytest.fixture
def teacher():
    return tiny_teacher("showo")


@pytest.fixture
def backbone(teacher):
    return teacher.backbone


def prompts(backbone, words, generator):
    """A condition of random prompts of so many words each, no two alike."""
    arch = backbone.arch
    ids = torch.full((len(words), arch.text_length), arch.special("[PAD]"))
    for row, count in zip(ids, words, strict=True):
        row[-count:] = torch.randint(arch.llm_vocab_size, (count,), generator=generator)
    return Cond({"ids": ids}, tuple(str(row.tolist()) for row in ids))


@pytest.fixture
def cond(backbone, generator):
    return prompts(backbone, (6, 2, 4), generator)


@pytest.fixture
def tokens(teacher, generator):
    space = teacher.space
    return torch.randint(space.codes + 1, (3, space.length, 1), generator=generator)


class Watched:
    """How many samples the first layer was given at a time: of prompts, of images, of both."""

    def __init__(self, teacher):
        self.sizes, self.backbone = [], teacher.backbone
        self.places = {
            "prompts": self.backbone.arch.text_length,
            "images": teacher.space.length + 2,
        }
        self.backbone.layers[0].register_forward_hook(
            lambda _, given, got: self.sizes.append(given[0].shape[:2])
        )

    def __getitem__(self, name):
        return [samples for samples, places in self.sizes if places == self.places[name]]


@pytest.fixture
def watched(teacher):
    """The teacher's network, watched."""
    return Watched(teacher)


# ---------------------------------------------------------------- the same numbers


@torch.no_grad()
def test_logits_are_those_of_prompt_and_image_read_together(backbone, tokens, cond):
    plain = backbone(tokens, cond)
    assert "past" not in cond.tensors
    for given in (cond, cond, Cond(cond.tensors)):
        found = backbone(tokens, backbone.prepared(given))
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_prepared_condition_is_cut_and_joined_like_any_other(backbone, tokens, cond):
    plain, prepared = backbone(tokens, cond), backbone.prepared(cond)
    parts = Cond.cat([prepared[1:], prepared[:1].times(2)])
    found = backbone(tokens[[1, 2, 0, 0]], parts)
    torch.testing.assert_close(found, plain[[1, 2, 0, 0]], atol=1e-5, rtol=1e-5)
    assert backbone.prepared(prepared) is prepared


def test_gradients_are_the_same_also_when_prompts_were_read_while_sampling(backbone, tokens, cond):
    with torch.inference_mode():
        backbone.prepared(cond)
    gradients = []
    for given in (cond, backbone.prepared(cond)):
        embeds = backbone.embed(tokens).detach().requires_grad_()
        backbone.head(backbone.hidden(embeds, given)).square().sum().backward()
        gradients.append(embeds.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "replaced", "precision"])
def test_prompts_are_read_again_once_the_weights_are_others(backbone, tokens, cond, change):
    backbone.prepared(cond)
    layer = backbone.layers[0].self_attn.k_proj
    if change == "in place":
        layer.weight.mul_(2)
    elif change == "replaced":
        layer.weight = torch.nn.Parameter(2 * layer.weight, requires_grad=False)
    else:
        backbone.double()
    found = backbone(tokens, backbone.prepared(cond))
    torch.testing.assert_close(found, backbone(tokens, cond))


@torch.no_grad()
def test_half_precision_has_a_memory_of_its_own(backbone, cond):
    past = backbone.prepared(cond).tensors["past"]
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.prepared(cond).tensors["past"]
    assert (past.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(half.float(), past, atol=0.05, rtol=0.05)
    assert torch.equal(backbone.prepared(cond).tensors["past"], past)


# ---------------------------------------------------------------- once per prompt


def with_null(teacher, generator):
    """The teacher with an empty prompt, and two prompts for two samples each."""
    null = prompts(teacher.backbone, (2,), generator)
    teacher.conditioner.null = lambda count: Cond(null.tensors).times(count)
    cond = prompts(teacher.backbone, (5, 3), generator)
    return Cond.cat([cond, cond])


def test_a_sampler_reads_each_prompt_once_however_many_steps_it_takes(teacher, watched, generator):
    cond, length = with_null(teacher, generator), teacher.space.length
    sample_by_plan(teacher, cond, teacher.sampler.plan(6, length, 2.0, 1.0), generator)
    assert watched["prompts"] == [1, 2]  # the empty one, and both others
    assert watched["images"] == [8] * 6
    assert len(watched.sizes) == 8
    sample_theta_trapezoidal(
        teacher, cond, generator, steps=3, guidance=2.0, schedule="cosine"
    )  # which knows both prompts by now
    assert watched["prompts"] == [1, 2, 1]


def test_only_prompts_that_are_new_are_read(backbone, watched, cond, generator):
    backbone.prepared(cond)
    backbone.prepared(Cond.cat([cond[:2], prompts(backbone, (3,), generator)]))
    assert watched["prompts"] == [3, 1]


def test_test_time_optimization_reads_the_prompt_once(teacher, watched, generator):
    from dimo_cli.specs.init import InitSpec

    backbone, space = teacher.backbone, teacher.space
    cond = prompts(backbone, (4,), generator).times(2)
    start = start_embeddings(backbone, space, teacher.tokenizer, InitSpec(), 2, generator)
    spec = TteoSpec(iterations=3)
    score = lambda images: images.mean((1, 2, 3))  # noqa: E731
    optimize_embeddings(backbone, teacher.tokenizer, cond, start, score, spec)
    assert watched["prompts"] == [1]
    assert watched["images"] == [2] * 4


def test_a_discriminator_reads_the_prompt_of_a_real_and_of_a_made_image_once(teacher, cond, tokens):
    judge = Discriminator(teacher, heads=1, width=8)
    seen = []
    judge.backbone.layers[0].register_forward_hook(
        lambda _, given, got: seen.append(tuple(given[0].shape[:2]))
    )
    embeds = judge.backbone.embed(torch.cat([tokens, tokens]))
    judge(embeds, Cond.cat([cond, cond]))
    judge(embeds[:3], cond)
    image = teacher.space.length + 2
    assert seen == [(3, teacher.backbone.arch.text_length), (6, image), (3, image)]


def test_in_training_the_teacher_reads_the_empty_prompt_once_and_the_others_learn(teacher):
    spec = small_spec(
        teacher={"name": "showo", "guidance": {"scale": 2.0}}, train={"batch_size": 2}
    )
    teacher.conditioner.dataset = ["a red circle", "a blue square", "a door"]
    generator = torch.Generator().manual_seed(0)
    run = Distillation(teacher, spec, generator, contextlib.nullcontext)
    of_teacher, of_student = (
        Watched(type("Of", (), {"backbone": network, "space": teacher.space})())
        for network in (run.teacher.backbone, run.student)
    )
    before = run.student.layers[0].self_attn.k_proj.weight.clone()
    for step in range(4):
        run.step(step)
    assert sum(of_teacher["prompts"]) <= 4  # three prompts and the empty one
    assert of_teacher["images"] == [4] * 4
    assert len(of_teacher.sizes) == len(of_teacher["prompts"]) + 4
    assert of_student["prompts"] == of_student["images"] == []
    assert not torch.equal(run.student.layers[0].self_attn.k_proj.weight, before)


def test_a_network_in_training_learns_from_the_prompt(backbone, tokens, cond):
    network = copy.deepcopy(backbone).requires_grad_(True)
    assert network.prepared(cond) is cond
    network(tokens, cond).square().sum().backward()
    used = cond.tensors["ids"].unique()
    assert network.table.grad[used[used < network.arch.llm_vocab_size]].abs().sum(-1).min() > 0


def test_a_compiled_network_reads_as_many_prompts_as_there_are_samples(backbone, watched, cond):
    backbone.call_block = lambda block, *inputs: block(*inputs)
    backbone.prepared(cond[:2])
    backbone.prepared(cond)
    assert watched["prompts"] == [2, 3]
    backbone.prepared(cond)
    assert len(watched.sizes) == 2


# ---------------------------------------------------------------- memory


def test_a_copy_remembers_nothing(backbone, cond):
    backbone.prepared(cond)
    assert backbone.memory.rows
    assert not copy.deepcopy(backbone).memory.rows


def test_the_oldest_prompts_are_forgotten_where_memory_is_short(
    backbone, watched, cond, generator, monkeypatch
):
    backbone.prepared(cond)
    one = next(iter(backbone.memory.rows.values())).nbytes
    monkeypatch.setattr(memory, "MOST_BYTES", 4 * one)
    backbone.prepared(Cond.cat([cond[:1], prompts(backbone, (3, 5), generator)]))
    assert len(backbone.memory.rows) == 4
    backbone.prepared(cond[:1])
    assert watched["prompts"] == [3, 2]
    monkeypatch.setattr(memory, "MOST_BYTES", 0)
    assert backbone.prepared(cond).tensors["past"].shape[0] == 3
    assert not backbone.memory.rows


def test_shapes_alone_are_enough_for_a_plan(teacher):
    backbone = copy.deepcopy(teacher.backbone).to("meta")
    tokens = torch.zeros(2, teacher.space.length, 1, dtype=torch.long, device="meta")
    cond = teacher.conditioner.blank(2).to("meta")
    for given in (cond, backbone.prepared(cond)):
        logits = backbone(tokens, given)
        assert logits.shape == (2, teacher.space.length, 1, teacher.space.vocab)
