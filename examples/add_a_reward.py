"""A reward of one's own: how warm the colors of a picture are. The rest of the line is dimo's own.

    python examples/add_a_reward.py refine shapes --reward warmth=1 --out runs/warm

A reward scores a picture and a prompt: `dimo_cli/rewards/protocol.py` says what it has to be.
"""

import torch
from torch import nn

from dimo_cli.hub.published import Published
from dimo_cli.main import main
from dimo_cli.rewards.protocol import Reward, RewardCard
from dimo_cli.rewards.registry import register_reward

CARD = RewardCard(
    name="warmth",
    summary="how much more red than blue a picture is, whatever was asked for",
    scale_note="-2 to 2, usually about 0",
    license="Apache-2.0",
    weights=Published(()),  # nothing to download
    parameters=3,
)


def warmth_network():
    """Red less blue of each pixel."""
    network = nn.Conv2d(3, 1, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1))
    return network


class Warmth(Reward):
    """The mean of red less blue."""

    def encode(self, prompts):
        return {}  # it does not read

    def score(self, pixels, text):
        return self.network(pixels).mean((1, 2, 3))


def load_warmth(store):
    return Warmth(CARD, warmth_network(), image_size=32)


register_reward("warmth", load_warmth)
if __name__ == "__main__":
    main()
