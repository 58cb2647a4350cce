"""However the samples of a step are cut, each of them gets the same random numbers."""

import pytest
import torch

from dimo_cli.engine import draws
from dimo_cli.engine.draws import Rows, own_generator, samples_among, sourced_chunks, stacked
from dimo_cli.engine.share import divide, local_train
from dimo_cli.errors import SpecError
from dimo_cli.specs.train import TrainSpec

SAMPLES = 12


def seeded():
    return torch.Generator().manual_seed(3)


def everything(source, count):
    """One of each kind of draw for `count` samples, row by row."""
    return [
        draws.uniform((count, 5), source),
        draws.normal((count, 3, 2), source, torch.float64),
        draws.integers(7, (count,), source),
        draws.exponential((count, 4), source),
    ]


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
@pytest.mark.parametrize("block", [2**24, 8, 1])
def test_the_parts_of_a_step_draw_what_the_whole_would(monkeypatch, parts, block):
    monkeypatch.setattr(draws, "BLOCK", block)
    generator = seeded()
    whole = everything(Rows(generator), SAMPLES)
    found = []
    for part in range(parts):
        own = seeded()
        found.append(everything(Rows(own, part, parts), SAMPLES // parts))
        assert own.get_state().equal(generator.get_state())
    for index, expected in enumerate(whole):
        assert torch.cat([drawn[index] for drawn in found]).equal(expected)


def test_without_blocks_a_step_draws_what_a_plain_generator_does():
    for mine, plain in zip(
        everything(Rows(seeded()), SAMPLES), everything(seeded(), SAMPLES), strict=True
    ):
        assert mine.equal(plain)


def test_real_and_generated_samples_in_one_batch_are_cut_alike():
    whole = draws.normal((2 * SAMPLES, 4), stacked(Rows(seeded()), 2)).view(2, SAMPLES, 4)
    for part in range(3):
        source = stacked(Rows(seeded(), part, 3), 2)
        expected = whole[:, part * 4 : part * 4 + 4].flatten(0, 1)
        assert draws.normal((8, 4), source).equal(expected)


@pytest.mark.parametrize("size", [1, 5, 7, 16, 100])
def test_noise_in_chunks_is_the_same_wherever_the_cuts_are(size):
    positions = 4

    def noise(source, count):
        found = torch.full((count * positions, 3), torch.nan)
        for part, own in sourced_chunks(count * positions, size, source, lambda: (3,)):
            found[part] = draws.exponential(found[part].shape, own)
        return found

    whole = noise(Rows(seeded()), SAMPLES)
    parts = [noise(Rows(seeded(), part, 4), SAMPLES // 4) for part in range(4)]
    assert torch.cat(parts).equal(whole)
    assert whole.isfinite().all()


def test_what_is_drawn_once_for_a_step_is_the_same_in_all_its_parts():
    numbers = {draws.uniform((), own_generator(Rows(seeded(), part, 4))).item() for part in (0, 3)}
    assert len(numbers) == 1
    assert samples_among(3, Rows(seeded(), 1, 4)) == (12, slice(3, 6))
    assert samples_among(3, seeded()) == (3, slice(3))


@pytest.mark.parametrize(
    ("batch", "accumulate", "world", "local"),
    [
        (64, 1, 1, (64, 1)),
        (64, 1, 4, (16, 1)),
        (64, 4, 4, (64, 1)),
        (64, 4, 8, (32, 1)),
        (64, 6, 4, (48, 2)),
        (6, 2, 3, (4, 1)),
        (5, 3, 3, (5, 1)),
    ],
)
def test_every_rank_gets_as_much_of_a_step_as_every_other(batch, accumulate, world, local):
    train = TrainSpec(batch_size=batch, accumulate=accumulate)
    shares = [divide(train, rank, world) for rank in range(world)]
    own = [local_train(train, share) for share in shares]
    assert {(spec.batch_size, spec.accumulate) for spec in own} == {local}
    blocks = [
        (rows.part, rows.parts) for share in shares for rows in share.streams(torch.Generator())
    ]
    assert blocks == [(part, len(blocks)) for part in range(len(blocks))]


def test_a_step_that_cannot_be_divided_is_refused_with_what_can():
    with pytest.raises(SpecError, match=r"64 samples .* among 3 processes") as refused:
        divide(TrainSpec(batch_size=64), 0, 3)
    assert "1, 2, 4, 8" in refused.value.hint
