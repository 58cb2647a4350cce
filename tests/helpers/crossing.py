"""Families crossed with settings: each of both in `make test`, and every pair in `make slow`."""

import pytest


def each_of_both(first, second, times=1):
    """Pairs of names, of which each of the first comes quickly with so many of the second."""
    first, second = list(first), list(second)
    apart, pairs = max(1, len(second) // times), []
    for row, one in enumerate(first):
        quick = {second[(row + apart * turn) % len(second)] for turn in range(times)}
        for other in second:
            marks = () if other in quick else pytest.mark.slow
            pairs.append(pytest.param(one, other, marks=marks))
    return pairs
