"""Di-Bregman token by token is an f-divergence, f(u) = u h(1 / u), and dimo has each by a name."""

import pytest
import torch

from dimo_cli.engine.divergence import GENERATORS, FromGenerator

NAMES = {
    "rlogr": "reverse_kl",
    "square": "neyman",
    "minus_log": "forward_kl",
    "js": "jensen_shannon",
}


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("h", NAMES)
def test_the_divergence_of_a_generator_is_that_of_bregmans_h(golden, h, case):
    """h = r log r, (r - 1)^2 / 2, -log r, or Jensen and Shannon's, of r = student / teacher."""
    closed = golden("objectives/closed.safetensors")
    log_q, log_p = (closed[f"bregman.{case}.{who}"].log() for who in ("student", "teacher"))
    divergence = FromGenerator(GENERATORS[NAMES[h]])
    found = divergence.logit_gradient(log_p, log_q)
    torch.testing.assert_close(found, closed[f"bregman.{case}.{h}.gradient"], atol=1e-10, rtol=0)
    value = divergence.value(log_p, log_q)
    torch.testing.assert_close(value, closed[f"bregman.{case}.{h}.value"][0], atol=1e-10, rtol=0)
