"""Weights are real numbers of a known kind, all finite; what is not is refused by name."""

import pytest
import torch

from dimo_cli.errors import MissingError, NotFinite
from dimo_cli.files.sound import PART, check_finite, check_weights, is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_number_among_many_is_found_wherever_it_is(dtype, bad):
    numbers = torch.zeros(PART + 3, dtype=dtype)
    assert is_finite(numbers)
    numbers[-1] = bad
    assert not is_finite(numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_whose_sum_is_too_large_are_finite_themselves(dtype):
    assert is_finite(torch.full((100,), torch.finfo(dtype).max, dtype=dtype))


def test_both_infinities_do_not_cancel():
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


def test_nothing_and_a_single_number_are_finite():
    assert is_finite(torch.ones(0, 3))
    assert is_finite(torch.tensor(1.0))


def test_a_network_that_is_not_finite_is_refused_by_the_names_of_its_tensors():
    weights = {name: torch.ones(2) for name in ("a", "b", "c")}
    weights["b"][1] = weights["c"][0] = torch.nan
    with pytest.raises(NotFinite, match=r"The weights of `x` are not finite: `b` and 1 more\."):
        check_finite(weights, "`x`")


KINDS = (torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", KINDS)
def test_other_kinds_of_number_are_no_weights(dtype):
    weights = {"good": torch.ones(2), "bad": torch.ones(2).to(dtype)}
    expected = {name: torch.empty(2) for name in weights}
    with pytest.raises(MissingError, match=r"holds `bad` as (u?int|bool|complex|float8)") as caught:
        check_weights(weights, expected, "`x`")
    assert "float32, float16, bfloat16 or float64" in caught.value.hint


def test_a_whole_number_of_a_network_stays_one():
    expected = {"count": torch.empty((), dtype=torch.int64)}
    check_weights({"count": torch.tensor(3)}, expected, "`x`")
    check_weights({"count": torch.tensor(3, dtype=torch.int32)}, expected, "`x`")
    with pytest.raises(MissingError, match="`count` as float32"):
        check_weights({"count": torch.tensor(3.5)}, expected, "`x`")
