"""Test-time optimization of one prompt, with networks and rewards at their precision."""

import torch

from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.registry import load_reward
from dimo_cli.sampling.tteo import optimize_prompt
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.published import open_student


def test_bf16_finds_nearly_what_fp32_finds():
    student = open_student("shapes")
    rewards = {"shapes_clip": (load_reward("shapes_clip", HubStore()), 1.0)}
    one, two = (
        optimize_prompt(
            student, rewards, "a red circle", TteoSpec(precision=name, starts=2, iterations=1)
        ).found.trace
        for name in ("fp32", "bf16")
    )
    assert not torch.equal(one, two)
    torch.testing.assert_close(one[0], two[0].float(), atol=0.5, rtol=0.1)
