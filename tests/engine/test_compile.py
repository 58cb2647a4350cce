"""torch.compile sees each network as one graph: no break sends it back to Python."""

import pytest
import torch

from tests.helpers.tiny import FAMILIES, tiny_teacher


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(function):
    """The function as one graph, or an error; the graph is run as it is, to lose no time."""
    return torch.compile(function, fullgraph=True, backend="eager")


@pytest.mark.parametrize("name", FAMILIES)
def test_backbone_and_decoder_are_one_graph_each(name):
    teacher = tiny_teacher(name)
    space, backbone, tokenizer = teacher.space, teacher.backbone, teacher.tokenizer
    cond = teacher.conditioner.blank(2)
    shape = (2, space.length, space.groups)
    tokens = torch.randint(space.codes, shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone(tokens, cond)
        hidden = whole(backbone.hidden)(backbone.embed(tokens), cond)
        torch.testing.assert_close(whole(backbone.head)(hidden), expected)
        images = tokenizer.decode(tokens, cond)
        torch.testing.assert_close(whole(tokenizer.decode)(tokens, cond), images)
        probs = torch.nn.functional.one_hot(tokens, space.vocab).float()
        torch.testing.assert_close(
            whole(tokenizer.decode_probs)(probs, cond), images, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_backbone_that_is_trained_is_one_graph(name):
    teacher = tiny_teacher(name)
    space, backbone = teacher.space, teacher.backbone.requires_grad_(True)
    tokens = torch.zeros((2, space.length, space.groups), dtype=torch.long)
    embeds = backbone.embed(tokens).detach()
    whole(backbone.hidden)(embeds, teacher.conditioner.blank(2)).square().mean().backward()
    assert any(parameter.grad is not None for parameter in backbone.parameters())
