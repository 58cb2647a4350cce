"""A latent is a token of a student's sequence, as di4c's authors have it."""

import pytest
import torch

from benchmarks.networks import random_teacher
from dimo_cli.errors import SpecError
from dimo_cli.teachers.latent import check_has_room, give_latent, sinusoids
from dimo_cli.teachers.protocol import LATENT, Cond
from tests.helpers.tiny import ARCHITECTURES, tiny_teacher

WITH_ROOM = ["digits", "shapes", "emoji", "maskgit", "maskbit"]


def test_a_number_becomes_the_sinusoids_of_the_authors_code(golden):
    io = golden("objectives/di4c.safetensors")
    found = sinusoids(io["lam.value"])
    torch.testing.assert_close(found, io["lam.sinusoid"], atol=1e-4, rtol=0)


def test_a_network_with_a_latent_computes_what_the_authors_does(golden):
    io, facts = golden("objectives/di4c_network.safetensors"), golden("objectives/di4c.json")
    own = facts["network"]
    architecture = {
        **ARCHITECTURES["maskgit"],
        "grid": 3,
        **{name: own[name] for name in ("hidden_dim", "codebook_size", "depth", "heads")},
        **{name: own[name] for name in ("mlp_dim", "dropout", "nclass")},
    }
    teacher = random_teacher("maskgit", architecture)
    network = give_latent(teacher.backbone, teacher.space)
    weights = {name.removeprefix("weights."): t for name, t in io.items() if "weights." in name}
    network.load_state_dict(
        {name.replace("latent_projection", LATENT): tensor for name, tensor in weights.items()}
    )
    network.eval()
    tokens, label = io["io.code"].flatten(1)[..., None], io["io.labels"]
    for cond, name in (
        ({"label": label}, "logits_without_lam"),
        ({"label": label, LATENT: io["io.lam"]}, "logits"),
    ):
        with torch.no_grad():
            found = network(tokens, Cond(cond)).squeeze(2)
        torch.testing.assert_close(found, io[f"io.{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", WITH_ROOM)
def test_it_changes_what_is_said_of_the_image_and_not_its_shape(name, generator):
    teacher = tiny_teacher(name)
    network = give_latent(teacher.backbone, teacher.space, seed=3)
    cond = teacher.conditioner.blank(2)
    space = teacher.space
    tokens = torch.randint(space.codes, (2, space.length, space.groups), generator=generator)
    with torch.no_grad():
        embeds = network.embed(tokens)
        plain, taps = network.hidden(embeds, cond, (0, 1))
        found = {}
        for value in (0.2, 0.8):
            given = Cond({**cond.tensors, LATENT: torch.full((2,), value)})
            found[value], tapped = network.hidden(embeds, given, (0, 1))
            assert [one.shape for one in tapped] == [one.shape for one in taps]
            assert found[value].shape == plain.shape
    assert not torch.equal(found[0.2], found[0.8])
    assert not torch.equal(found[0.2], plain)


def test_its_weights_are_decided_by_the_seed(teacher):
    networks = [give_latent(tiny_teacher("digits").backbone, teacher.space, s) for s in (1, 1, 2)]
    first, same, other = [network.latent[0].weight for network in networks]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["halton-tiny", "titok-l32"])
def test_a_family_without_room_is_refused_with_the_reason(name):
    with pytest.raises(SpecError, match="has no room for one"):
        check_has_room(tiny_teacher(name).backbone, name)
