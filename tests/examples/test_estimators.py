"""The example of the three gradient estimators keeps what it promises."""

import io
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "estimators.py"


@pytest.fixture(scope="module")
def rows():
    with redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(EXAMPLE))["main"](draws=20_000)
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in said.getvalue().splitlines()
    ]
    assert len(lines) == 30
    return [dict(zip(header, line, strict=True)) for line in lines]


def column(rows, estimator, name, f=None):
    return [
        float(row[name])
        for row in rows
        if row["estimator, tau"] == estimator and f in (None, row["f"])
    ]


def test_the_example_is_under_80_lines():
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_soft_embeddings_have_no_variance_and_stay_below_the_bound_of_lemma_g3(rows):
    assert column(rows, "soft 1.0", "variance") == [0.0] * 6
    errors, bounds = (column(rows, "soft 1.0", name) for name in ("value error", "G.3 bound"))
    assert all(error <= bound for error, bound in zip(errors, bounds, strict=True))


@pytest.mark.parametrize("f", ["quadratic", "waves"])
def test_the_bias_of_soft_embeddings_shrinks_as_logits_concentrate(rows, f):
    bounds, biases = (column(rows, "soft 1.0", name, f) for name in ("G.3 bound", "bias"))
    assert bounds[0] > bounds[1] > 5 * bounds[2]
    assert biases[2] < biases[0] / 2


def test_straight_through_stays_biased_as_tau_falls_unless_f_is_quadratic(rows):
    assert all(bias > 0.02 for bias in column(rows, "gumbel_st to 0", "bias", "waves"))
    assert column(rows, "gumbel_st to 0", "bias", "quadratic") == [0.0] * 3
    cold, warm = (column(rows, f"gumbel_st {tau}", "variance") for tau in (0.2, 1.0))
    assert all(low > 2 * high for low, high in zip(cold, warm, strict=True))


def test_reinforce_is_unbiased_and_noisy(rows):
    biases, variances = (column(rows, "reinforce 1.0", name) for name in ("bias", "variance"))
    for bias, variance in zip(biases, variances, strict=True):
        assert bias < 4 * (variance / 20_000) ** 0.5 + 1e-3
        assert variance > 0.1
