"""Noise in the student's input: the numbers of IMDM's authors, and what it makes possible."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.input_noise import NAME, NoiseNetwork, give_noise, input_embeds, noise_of
from dimo_cli.engine.one_step import student_hidden
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import SpecError
from dimo_cli.specs.input_noise import InputNoise
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.teachers.protocol import Backbone
from tests.conftest import small_spec
from tests.helpers.tabular import tabular_teacher
from tests.helpers.worlds import world_of


def network_of(io, mask_id):
    network = NoiseNetwork(InputNoise(dim=3), 6, mask_id)
    names = {"lift.weight": "0.weight", "lift.bias": "0.bias", "land.weight": "2.weight"}
    network.load_state_dict({own: io[f"mlp.{theirs}"] for own, theirs in names.items()})
    return network


def test_masks_are_embedded_as_by_the_authors_code(golden):
    io = golden("objectives/imdm.safetensors")
    embedding, mask_id = io["embedding"], len(io["embedding"]) - 1
    network, tokens = network_of(io, mask_id), io["tokens"][..., None]
    for name, eps in (("embeds", "eps"), ("reset.embeds", "reset.eps_after")):
        found = embedding[io["tokens"]] + network(tokens, io[eps][:, :, None])
        torch.testing.assert_close(found, io[name], atol=1e-5, rtol=0)
    network.land.weight.data.zero_()
    found = embedding[io["tokens"]] + network(tokens, io["eps"][:, :, None])
    assert torch.equal(found, io["at_start.embeds"])


def test_it_starts_as_in_the_paper():
    network = NoiseNetwork(InputNoise(), 64, 17, seed=3)
    assert network.lift.weight.shape == (256, 64)
    assert network.lift.weight.abs().max() <= 0.04
    assert network.lift.weight.std().item() == pytest.approx(0.0176, rel=0.05)
    assert network.lift.bias.abs().max() == 0
    assert network.land.bias is None
    assert network.land.weight.abs().max() == 0
    again = NoiseNetwork(InputNoise(), 64, 17, seed=3)
    assert torch.equal(network.lift.weight, again.lift.weight)


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
@pytest.mark.parametrize(("kind", "shape"), [("mask", (200, 5, 2, 8)), ("image", (200, 1, 1, 8))])
def test_noise_is_that_of_each_mask_or_of_each_image(generator, law, kind, shape):
    network = NoiseNetwork(InputNoise(kind=kind, dim=8, law=law), 4, 9)
    network.land.weight.data.normal_(generator=generator)
    tokens = torch.randint(10, (200, 5, 2), generator=generator)
    eps = network.draw(tokens, generator)
    assert eps.shape == shape
    assert eps.std() == pytest.approx(1.0 if law == "gaussian" else 3**-0.5, rel=0.05)
    assert (eps.abs().max() <= 1) == (law == "uniform")
    added = network(tokens, eps).expand(200, 5, 4)
    if kind == "image":
        assert torch.equal(added, added[:, :1].expand_as(added))
    else:
        unmasked = (tokens != 9).all(-1)
        assert added[unmasked].abs().max() == 0
        assert added[~unmasked].abs().amin(-1).min() > 0


def run_of(teacher, **groups):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, small_spec(**groups), generator, contextlib.nullcontext)


def test_a_student_begins_as_its_teacher_bit_for_bit_and_learns_to_listen(teacher, generator):
    run = run_of(teacher, init={"noise": "mask"})
    tokens = torch.full((2, 64, 1), 17)
    cond = teacher.conditioner.labels(torch.tensor([3, 4]))
    with torch.no_grad():
        found = student_hidden(run.student, tokens, cond, 0.0, generator)
        assert torch.equal(found, student_hidden(teacher.backbone, tokens, cond, 0.0, generator))
    assert noise_of(run.auxiliary) is None
    for step in range(3):
        run.step(step)
    assert noise_of(run.student).land.weight.abs().max() > 0
    first, second = (input_embeds(run.student, tokens, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert any(name.startswith(f"{NAME}.") for name in run.networks()["student"].state_dict())


def test_without_it_nothing_is_drawn(teacher, generator):
    before = generator.get_state()
    tokens = torch.full((2, 64, 1), 17)
    embeds = input_embeds(teacher.backbone, tokens, generator)
    assert torch.equal(embeds, teacher.backbone.embed(tokens))
    assert torch.equal(generator.get_state(), before)
    give_noise(teacher.backbone, None, teacher.space)
    assert noise_of(teacher.backbone) is None


def test_adapters_leave_no_place_for_it():
    with pytest.raises(ValueError, match=r"init\.noise has a network of its own"):
        small_spec(init={"noise": "mask"}, student={"lora": {"rank": 2}})


class Echo(Backbone):
    """Every position says what the embeddings sum up to: two codes, as their sign is."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, 1))

    def embed(self, tokens):
        return self.weight[tokens].sum(2)

    def embed_probs(self, probs, mask=None):
        raise NotImplementedError

    def hidden(self, embeds, cond, taps=()):
        return embeds.sum(1, keepdim=True).expand(-1, embeds.shape[1], -1)

    def head(self, hidden, positions=None):
        return torch.cat([hidden, -hidden], -1)[..., None, :]

    def embedding_parameters(self):
        return []


@pytest.mark.parametrize("kind", ["mask", "image"])
def test_two_equal_bits_need_it_where_all_of_the_input_is_masks(golden, generator, kind):
    """Without noise no student comes closer than log 2; one that listens comes close to 0."""
    world = world_of(golden("objectives/world_equal_bits.safetensors"))
    joint = world.tensors["joint"].view(2, 2)
    space, student = tabular_teacher(world).space, Echo()
    tokens = torch.full((200_000, 2, 1), 2)

    def kl():
        with torch.no_grad():
            embeds = input_embeds(student, tokens, generator)
            p = student.head(student.hidden(embeds, None)).squeeze(2).double().softmax(-1)
        drawn = (p[:, 0, :, None] * p[:, 1, None, :]).mean(0)
        return torch.xlogy(drawn, drawn / joint).sum().item()

    assert kl() > 0.69
    noise = noise_of(give_noise(student, InputNoise(kind=kind, dim=1), space))
    assert kl() > 0.69  # it is not heard yet
    noise.lift.weight.data = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    noise.land.weight.data = 1e5 * torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    assert kl() < 0.01


def test_a_refinement_goes_on_with_the_noise_of_its_student(teacher):
    start = run_of(teacher, init={"noise": "mask"}).student
    torch.nn.init.normal_(noise_of(start).land.weight)
    spec = resolve_spec(RefineSpec, preset="digits-gan", environment={},
                        sets=["init.noise=mask", "gan.enabled=false"]).spec  # fmt: skip

    def refined(spec, begin):
        return Refinement(teacher, spec, torch.Generator(), contextlib.nullcontext, start=begin)

    kept = noise_of(refined(spec, start).student).land.weight
    assert torch.equal(kept, noise_of(start).land.weight)
    new = noise_of(refined(spec, teacher.backbone).student)
    assert new.land.weight.abs().max() == 0
    without = spec.model_copy(update={"init": spec.init.model_copy(update={"noise": None})})
    with pytest.raises(SpecError, match=r"trained with `init\.noise` mask, and here it is none"):
        refined(without, start)
