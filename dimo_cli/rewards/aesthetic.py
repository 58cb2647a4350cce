"""LAION's aesthetic predictor v2: how much people like an image, whatever was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.errors import MissingError, NotThere
from dimo_cli.hub.access import dimo_cache
from dimo_cli.hub.loading import on_meta
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.clip_network import (
    IMAGE_PREFIXES,
    ClipImageTower,
    ClipSizes,
    built,
    image_weights,
)
from dimo_cli.rewards.networks import AffineHead, VisionSizes
from dimo_cli.rewards.protocol import FileByHand, Reward, RewardCard, RewardText, fill_reward

if TYPE_CHECKING:
    from dimo_cli.hub.store import HubStore

CLIP = "openai/clip-vit-large-patch14"
HEAD = FileByHand(
    HubFile("christophschuhmann/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"),
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
)
L_14 = VisionSizes(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, hidden_act="quick_gelu"
)
# The other half of CLIP: nothing here reads.
TEXT = re.compile(r"text_model\.|text_projection\.|logit_scale$")


def without_text(weights: StateDict) -> StateDict:
    """The image half of CLIP under our names; what is neither half stays, to be refused."""
    image = image_weights(weights)
    others = (name for name in weights if not name.startswith(IMAGE_PREFIXES))
    return image | {name: weights[name] for name in others if not TEXT.match(name)}


CARDS = {
    "aesthetic": RewardCard(
        "aesthetic",
        "LAION's aesthetic predictor v2 on OpenAI's CLIP L/14; it does not read the prompt",
        "a rating, 1 to 10",
        "MIT (CLIP), Apache-2.0 (head)",
        Published(
            (HubFile(CLIP, "model.safetensors"), HubFile(CLIP, "pytorch_model.bin")),
            convert=without_text,
        ),
        304_894_177,
        (HubFile(CLIP, "config.json"),),
        (HEAD,),
    )
}


class AestheticNetwork(nn.Module):
    """CLIP's image tower and a head on its normalized embedding."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.image = ClipImageTower(sizes.vision_config, sizes.projection_dim)
        self.head = AffineHead(sizes.projection_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized images [B, 3, S, S] to ratings [B]."""
        return self.head(F.normalize(self.image(pixels), dim=-1))


class AestheticReward(Reward):
    """The rating that people would give an image."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {}  # nothing of them counts

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        return self.network(pixels)


def load(name: str, store: HubStore, sizes: ClipSizes | None = None) -> AestheticReward:
    """The predictor with its weights; its head is looked for first, for it may be missing."""
    card = CARDS[name]
    head = head_weights(store)
    found, network = built(card, store, sizes, AestheticNetwork)
    network = fill_reward(network, {**store.weights(card.weights), **head}, card)
    return AestheticReward(card, network, found.vision_config.image_size)


def blank(name: str) -> AestheticReward:
    """The predictor without weights, in the sizes of L/14."""
    sizes = ClipSizes(projection_dim=768, vision_config=L_14)
    network = on_meta(lambda: AestheticNetwork(sizes))
    return AestheticReward(CARDS[name], network, L_14.image_size)


def head_weights(store: HubStore) -> StateDict:
    """The head, which a person has put into the local folder or into dimo's cache."""
    folder = store.local_dir or dimo_cache() / "rewards"
    try:
        weights = HubStore(local_dir=folder).weights(Published((HEAD.file,)))
    except NotThere:
        raise MissingError(
            f"`{folder}` has no `{HEAD.file.path}`. This head of the aesthetic predictor is on "
            "GitHub, not on the Hub, so dimo cannot download it.",
            f"Download {HEAD.url} and put it into {folder}.",
        ) from None
    return {f"head.{name}": tensor for name, tensor in weights.items()}
