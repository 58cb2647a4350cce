"""Masking: schedules as published, exact counts, and an x_init that is what the papers say."""

from dataclasses import replace

import pytest
import torch

from dimo_cli.engine.masking import (
    bernoulli_mask,
    check_control,
    draw_ratio,
    exact_mask,
    forward_mask,
    initial_tokens,
    masked_count,
)
from dimo_cli.errors import SpecError
from dimo_cli.teachers.plans import SCHEDULES, truncated_normal_ratio
from dimo_cli.teachers.protocol import TokenSpace

SPACE = TokenSpace(
    length=16, groups=1, vocab=33, codes=32, mask_id=32, image_size=16, grid=(4, 4),
    class_ids=range(33, 43),
)  # fmt: skip
TWO_GROUPS = TokenSpace(
    length=16, groups=2, vocab=128, codes=128, mask_id=128, image_size=16, grid=(4, 4)
)


def slots_of(size):
    """Slots of a grid that is written as `16x16`."""
    rows, columns = map(int, size.split("x"))
    return rows * columns


def test_mask_ratios_and_counts_are_those_of_the_released_code(golden):
    table = golden("maskgit/schedules.json")
    u, prefix = torch.tensor(table["r"]), "masked_count_"
    sizes = [key.removeprefix(prefix) for key in table if key.startswith(prefix)]
    assert sizes
    assert table["mask_ratio"]
    for name, expected in table["mask_ratio"].items():
        ratio = SCHEDULES[name](u)
        torch.testing.assert_close(ratio, torch.tensor(expected), atol=1e-6, rtol=0)
        for size in sizes:
            counts = masked_count(ratio.clamp(0, 1), slots_of(size))
            assert counts.tolist() == table[f"{prefix}{size}"][name]


def test_root_schedule_is_the_inverse_of_square():
    u = torch.linspace(0, 1, 11)
    torch.testing.assert_close(SCHEDULES["square"](SCHEDULES["root"](u)), u)


def test_truncated_normal_has_the_published_quantiles(golden):
    law = golden("maskgit/schedules.json")["mage"]
    quantiles, limits = law["quantiles"], (law["mu"], law["std"], law["low"], law["high"])
    u = torch.tensor([float(q) for q in quantiles], dtype=torch.float64)
    expected = torch.tensor(list(quantiles.values()), dtype=torch.float64)
    torch.testing.assert_close(truncated_normal_ratio(u, *limits), expected, atol=1e-6, rtol=0)


def test_truncated_normal_of_the_schedule_is_that_of_mage():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(
        SCHEDULES["truncated_normal"](u), truncated_normal_ratio(u, 0.55, 0.25, 0.5, 1.0)
    )


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_drawn_ratios_are_shares(schedule, generator):
    ratio = draw_ratio(schedule, 4096, generator)
    assert ratio.min() >= 0
    assert ratio.max() <= 1


def test_mean_of_the_arccos_ratio_is_two_over_pi(generator):
    assert draw_ratio("arccos", 100_000, generator).mean() == pytest.approx(2 / torch.pi, abs=3e-3)


def test_exact_mask_has_exactly_the_asked_number_of_entries(generator):
    counts = torch.tensor([1, 5, 16])
    assert exact_mask(counts, 16, generator).sum(-1).tolist() == counts.tolist()


def test_exact_mask_prefers_no_position(generator):
    share = exact_mask(torch.full((20_000,), 4), 16, generator).float().mean(0)
    assert (share - 0.25).abs().max() < 0.02


def test_bernoulli_mask_has_the_ratio_as_mean_and_never_an_empty_row(generator):
    mask = bernoulli_mask(torch.full((20_000,), 0.3), 16, generator)
    assert mask.float().mean() == pytest.approx(0.3, abs=0.01)
    assert bernoulli_mask(torch.zeros(100), 16, generator).sum(-1).tolist() == [1] * 100


def test_bernoulli_counts_vary_where_exact_ones_do_not(generator):
    counts = bernoulli_mask(torch.full((1000,), 0.5), 64, generator).sum(-1).float()
    assert counts.std() == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("exact", [True, False])
def test_forward_mask_changes_masked_tokens_only(generator, exact):
    tokens = torch.randint(32, (8, 16, 1), generator=generator)
    masked, mask = forward_mask(tokens, torch.full((8,), 0.5), 32, generator, exact)
    assert (masked[mask] == 32).all()
    assert (masked[~mask] == tokens[~mask]).all()


def test_groups_of_a_token_are_masked_apart(generator):
    tokens = torch.zeros(64, 16, 2, dtype=torch.long)
    _, mask = forward_mask(tokens, torch.full((64,), 0.5), 128, generator)
    assert (mask[..., 0] != mask[..., 1]).any()
    assert mask.flatten(1).sum(-1).tolist() == [16] * 64


def test_x_init_has_the_published_number_of_masks(golden, generator):
    tables = golden("maskgit/schedules.json")["x_init_masked_count"]
    assert tables
    for size, counts in tables.items():
        space = replace(SPACE, length=slots_of(size))
        for ratio, count in counts.items():
            tokens, mask = initial_tokens(space, 32, float(ratio), generator)
            assert (tokens == space.mask_id).sum((1, 2)).tolist() == [count] * 32
            assert (mask == (tokens == space.mask_id)).all()


def test_x_init_fills_the_rest_with_uniform_image_tokens(generator):
    tokens, mask = initial_tokens(SPACE, 4000, 0.5, generator)
    share = torch.bincount(tokens[~mask], minlength=32) / (~mask).sum()
    assert len(share) == 32
    assert (share - 1 / 32).abs().max() < 0.003


def test_x_init_of_two_groups_counts_slots(generator):
    tokens, _ = initial_tokens(TWO_GROUPS, 8, 0.6, generator)
    assert (tokens == 128).sum((1, 2)).tolist() == [19] * 8


def test_control_fixed_image_token_stands_where_masks_would(generator):
    tokens, mask = initial_tokens(SPACE, 8, 0.6, generator, "fixed_image_token", 5)
    assert (tokens[mask] == 5).all()
    assert not (tokens == SPACE.mask_id).any()


def test_control_fixed_class_token_uses_the_class_ids(generator):
    tokens, mask = initial_tokens(SPACE, 8, 0.6, generator, "fixed_class_token", 3)
    assert (tokens[mask] == 36).all()


def test_control_random_class_tokens_keeps_the_masks(generator):
    tokens, mask = initial_tokens(SPACE, 64, 0.6, generator, "random_class_tokens")
    assert (tokens[mask] == SPACE.mask_id).all()
    assert set(tokens[~mask].tolist()) == set(range(33, 43))


def test_control_encoded_noise_has_no_masks_at_all(generator, teacher):
    tokens, mask = initial_tokens(
        teacher.space, 16, 0.6, generator, "encoded_noise", tokenizer=teacher.tokenizer
    )
    assert not mask.any()
    assert (tokens < teacher.space.codes).all()
    assert len(tokens.unique()) > 10


@pytest.mark.parametrize(
    ("control", "token"), [("fixed_image_token", 32), ("fixed_class_token", 10)]
)
def test_a_control_token_outside_the_table_is_refused(control, token):
    with pytest.raises(SpecError, match="control_token"):
        check_control(SPACE, control, token)


def test_class_token_controls_need_a_teacher_with_class_tokens():
    with pytest.raises(SpecError, match="none in its token table"):
        check_control(TWO_GROUPS, "random_class_tokens", None)
