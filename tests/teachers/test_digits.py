"""The embedded teacher keeps the teacher protocol, and shows the problem that the papers solve."""

from pathlib import Path

import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.sampling.samplers import teacher_sampler
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.digits import training_tokens
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.registry import load_teacher
from tests.helpers.measuring import yardstick_for

BUILTIN = Path(builtin_path(""))


@pytest.fixture
def tokens(generator):
    return torch.randint(17, (3, 64, 1), generator=generator)


def test_what_ships_for_digits_is_at_most_two_megabytes():
    assert size_of("digits*") <= 2 * 10**6


def test_all_that_ships_with_the_embedded_teachers_is_at_most_24_megabytes():
    assert size_of("*") <= 24 * 10**6


def size_of(pattern):
    """Bytes of the built-in files and folders that match."""
    found = [path for top in BUILTIN.glob(pattern) for path in [top, *top.rglob("*")]]
    return sum(path.stat().st_size for path in found if path.is_file())


def test_all_1797_training_images_are_there_with_their_labels():
    tokens, labels = training_tokens()
    assert tokens.shape == (1797, 64, 1)
    assert int(tokens.max()) == 16
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_data_is_that_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.tensor(datasets.load_digits().images).flatten(1).long()
    assert torch.equal(training_tokens()[0].squeeze(-1), images)


def test_soft_embeddings_equal_embeddings_on_one_hots(teacher, tokens):
    one_hot = torch.nn.functional.one_hot(tokens, 17).float()
    torch.testing.assert_close(
        teacher.backbone.embed_probs(one_hot), teacher.backbone.embed(tokens)
    )


def test_soft_decoding_equals_decoding_on_one_hots_and_is_differentiable(teacher, tokens):
    one_hot = torch.nn.functional.one_hot(tokens, 17).float().requires_grad_()
    images = teacher.tokenizer.decode_probs(one_hot)
    torch.testing.assert_close(images.detach(), teacher.tokenizer.decode(tokens))
    images.sum().backward()
    assert one_hot.grad.abs().sum() > 0


def test_the_tokenizer_loses_nothing(teacher, tokens):
    images = teacher.tokenizer.decode(tokens)
    assert images.shape == (3, 3, 8, 8)
    assert -1 <= float(images.min()) < float(images.max()) <= 1
    assert torch.equal(teacher.tokenizer.encode(images), tokens)


def test_head_may_be_called_on_a_subset_of_positions(teacher, tokens):
    cond = teacher.conditioner.labels(torch.arange(3))
    hidden = teacher.backbone.hidden(teacher.backbone.embed(tokens), cond)
    whole = teacher.backbone.head(hidden).flatten(0, 1)
    rows = torch.tensor([5, 80, 191])
    torch.testing.assert_close(
        teacher.backbone.head(hidden.flatten(0, 1)[rows], rows % 64), whole[rows]
    )


def test_taps_return_the_outputs_of_those_blocks(teacher, tokens):
    cond = teacher.conditioner.labels(torch.arange(3))
    embeds = teacher.backbone.embed(tokens)
    hidden, taps = teacher.backbone.hidden(embeds, cond, taps=(0, 3))
    assert [tap.shape for tap in taps] == [(3, 64, 64)] * 2
    torch.testing.assert_close(teacher.backbone.norm(taps[1]), hidden)


def test_the_condition_matters_and_the_null_condition_is_another(teacher, tokens):
    labels = teacher.conditioner.labels(torch.tensor([4, 4, 4]))
    null = teacher.conditioner.null(3)
    with_label, without = teacher.backbone(tokens, labels), teacher.backbone(tokens, null)
    assert (with_label - without).abs().max() > 0.1


def test_conditions_are_cut_and_joined_row_by_row(teacher):
    cond = teacher.conditioner.labels(torch.arange(5))
    joined = Cond.cat([cond[3:], cond[:2]])
    assert joined.tensors["label"].tolist() == [3, 4, 0, 1]
    assert len(joined) == 4


def test_drawn_conditions_cover_all_classes(teacher, generator):
    drawn = teacher.conditioner.draw(1000, generator).tensors["label"]
    assert set(drawn.tolist()) == set(range(10))


def test_an_unknown_teacher_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError) as caught:
        load_teacher("digit")
    assert "digits" in caught.value.hint


@pytest.mark.slow  # of weights that do not change, and in `benchmarks/results/digits.json` too
def test_one_step_is_far_worse_than_many_and_two_worse_than_eight(teacher):
    yardstick, fid = yardstick_for(teacher), {}
    for steps in (1, 2, 8):
        sampler, protocol = teacher_sampler(teacher, SamplerSpec(teacher=True, steps=steps))
        fid[steps] = yardstick.measure(sampler, images=1000, protocol=protocol).value
    assert fid[1] > 3 * fid[8]
    assert fid[2] > 2 * fid[8]
