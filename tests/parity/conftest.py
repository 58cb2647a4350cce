"""What all comparisons with golden networks need."""

import pytest
import torch

FREQUENCIES = 128
ROUNDED_UP = [12, 106]


@pytest.fixture(autouse=True)
def _exponentials_of_the_recorder(monkeypatch):
    """The frequencies of sinusoids, to the last bit those of the golden files.

    Processors differ in the last bit of `exp`. A network that is told a time of 8e5 turns that bit
    into 0.02 of a logit. The recorder rounded correctly but for two frequencies.
    """
    native = torch.exp

    def exp(values):
        if values.shape != (FREQUENCIES,):
            return native(values)
        found = values.double().exp().float()
        found[ROUNDED_UP] = torch.nextafter(found[ROUNDED_UP], torch.tensor(torch.inf))
        return found

    monkeypatch.setattr(torch, "exp", exp)
