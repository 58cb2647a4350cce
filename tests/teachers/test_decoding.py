"""Pictures are painted fast on CUDA, in pieces, and no differently elsewhere."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from dimo_cli.teachers import decoding, vq_model
from dimo_cli.teachers.compiling import Compiled
from dimo_cli.teachers.decoding import compile_decoder, decode, half_on_cuda, lay_out_for_cuda
from dimo_cli.teachers.protocol import Cond
from tests.helpers.tiny import FAMILIES, VQVAE, tiny_teacher


def some_tokens(teacher, count=2):
    shape = (count, teacher.space.length, teacher.space.groups)
    return torch.randint(teacher.space.codes, shape, generator=torch.Generator().manual_seed(0))


def filled(cond):
    """A condition of the right shapes with numbers in it."""
    draw = torch.Generator().manual_seed(1)
    return Cond(
        {
            name: torch.randn(tensor.shape, generator=draw)
            if tensor.is_floating_point()
            else torch.zeros_like(tensor)
            for name, tensor in cond.tensors.items()
        }
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_cpu_nothing_is_changed(name):
    teacher = tiny_teacher(name)
    tokens, cond = some_tokens(teacher), filled(teacher.conditioner.blank(2))
    with torch.inference_mode():
        expected = teacher.tokenizer.decode(tokens, cond)
    assert torch.equal(decode(teacher, tokens, cond), expected)
    assert not teacher.tokenizer.is_laid_out


def on_a_pretended_card(network):
    """The same network with weights that have shapes and strides, and are said to be on CUDA."""

    def pretended(tensor):
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda", requires_grad=False
        )

    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                module._parameters[name] = nn.Parameter(pretended(weight), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = pretended(buffer)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_every_convolution_is_fed_with_channels_last_on_cuda(name):
    """On a pretended card: shapes, strides and devices are true, numbers are not there."""
    teacher = tiny_teacher(name)
    seen = []

    def look(module, inputs):
        image = inputs[0]
        one_pixel = image.shape[-1] * image.shape[-2] == 1 or image.shape[1] == 1
        last = image.is_contiguous(memory_format=torch.channels_last)
        seen.append((type(module).__name__, tuple(image.shape), last or one_pixel))

    lay_out_for_cuda(teacher.tokenizer)
    for module in teacher.tokenizer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tokenizer = on_a_pretended_card(teacher.tokenizer)
        shape = (2, teacher.space.length, teacher.space.groups)
        tokens = torch.zeros(shape, dtype=torch.long, device="cuda")
        cond = teacher.conditioner.blank(2)
        cond = Cond({key: torch.empty_like(t, device="cuda") for key, t in cond.tensors.items()})
        with torch.inference_mode():
            tokenizer.decode(tokens, cond)
    assert [entry for entry in seen if not entry[-1]] == []
    assert seen or name in ("digits",)


def test_a_batch_is_painted_in_pieces_where_it_is_too_large(monkeypatch):
    teacher = tiny_teacher("maskgit")
    tokenizer, tokens = teacher.tokenizer, some_tokens(teacher, 5)
    sizes = []

    def limited(tokens, cond):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(tokens))
        return tokenizer.decode(tokens, cond)

    tokenizer.fast_decode = limited
    with torch.inference_mode():
        found = decoding.paint(tokenizer, tokens, None)
        torch.testing.assert_close(found, tokenizer.decode(tokens))
    assert sizes == [2, 1, 2]


def test_an_image_that_cannot_be_painted_in_parts_says_so():
    tokenizer = tiny_teacher("maskgit").tokenizer

    def fails(tokens, cond):
        raise torch.OutOfMemoryError("CUDA out of memory")

    tokenizer.fast_decode = fails
    with pytest.raises(torch.OutOfMemoryError):
        decoding.paint(tokenizer, torch.zeros(1, 4, 1, dtype=torch.long), None)


def test_tiles_make_the_picture_but_for_what_norms_see(monkeypatch):
    """Norms look at a whole tile; without them only what lies beyond a tile's edge is missing."""
    settings = {**VQVAE, "num_vq_embeddings": 32, "mid_block_add_attention": False}
    torch.manual_seed(0)
    tokenizer = vq_model.VQTokenizer(vq_model.VQArchitecture(**settings), (24, 24)).eval()
    for module in tokenizer.decoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    tokens = torch.randint(32, (1, 24 * 24, 1))
    with torch.inference_mode():
        whole, in_one = tokenizer.decode(tokens), tokenizer.decode_in_tiles(tokens)
        monkeypatch.setattr(vq_model, "TILE", 16)
        in_four = tokenizer.decode_in_tiles(tokens)
    torch.testing.assert_close(in_one, whole)  # one tile is enough here
    assert (in_four - whole).abs().mean() < 0.05 * whole.std()
    assert in_four.shape == whole.shape


def test_where_memory_ends_one_image_is_painted_in_tiles():
    teacher = tiny_teacher("meissonic")
    tokens = some_tokens(teacher, 1)

    def fails(tokens, cond):
        raise torch.OutOfMemoryError("CUDA out of memory")

    teacher.tokenizer.fast_decode = fails
    with torch.inference_mode():
        found = decoding.paint(teacher.tokenizer, tokens, None)
        torch.testing.assert_close(found, teacher.tokenizer.decode(tokens))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "digits"])
def test_bf16_moves_a_picture_by_a_few_hundredths_of_its_contrast(name):
    """What `half_on_cuda` costs, seen on a CPU with small random weights."""
    teacher = tiny_teacher(name)
    tokens, cond = some_tokens(teacher), filled(teacher.conditioner.blank(2))
    with torch.inference_mode():
        exact = teacher.tokenizer.decode(tokens, cond)
        with torch.autocast("cpu", torch.bfloat16):
            half = teacher.tokenizer.decode(tokens, cond).float()
    assert (half - exact).abs().mean() < 0.03 * exact.std()


def test_half_precision_is_for_cuda_and_can_be_declined():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    with half_on_cuda(cpu, "auto"):
        assert not torch.is_autocast_enabled("cpu")
    with half_on_cuda(cuda, "fp32"):
        assert not torch.is_autocast_enabled("cuda")


def test_a_compiled_decoder_is_compiled_once():
    tokenizer = tiny_teacher("maskgit").tokenizer
    compile_decoder(tokenizer)
    first = tokenizer.fast_decode
    compile_decoder(tokenizer)
    assert isinstance(first, Compiled)
    assert tokenizer.fast_decode is first
