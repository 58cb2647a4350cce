"""What must hold on a card, and is held here on whatever device there is.

`DIMO_TEST_DEVICE` is `cuda` or `cpu`; without it, the card if there is one. On a card all tests of
this folder are marked `gpu`; on a CPU they belong to the ordinary ones.
"""

import os
from pathlib import Path

import pytest
import torch

from dimo_cli.training.precision import tf32

DEVICE = os.environ.get("DIMO_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if DEVICE == "cuda" and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device():
    assert DEVICE == "cpu" or torch.cuda.is_available(), "DIMO_TEST_DEVICE is cuda, without a card"
    return torch.device(DEVICE)


@pytest.fixture
def exact():
    """Float32 as it is on a CPU: without TF32, which rounds to three digits."""
    with tf32(False):
        yield
