"""CLIP score, PickScore and both versions of HPS: the cosine of an image and its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dimo_cli.hub.loading import on_meta
from dimo_cli.hub.published import HubFile, Published, Store
from dimo_cli.rewards.clip_network import ClipNetwork, ClipSizes, built, clip_weights
from dimo_cli.rewards.protocol import Reward, RewardCard, RewardText, fill_reward
from dimo_cli.teachers.clip_text import open_clip_tokens, restore_positions

VIT_H_14 = 986_109_441
LAION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE = "yuvalkirstain/PickScore_v1"


def in_folder(repo: str) -> Published:
    """Weights in transformers' layout, safe or as a pickle."""
    names = ("model.safetensors", "pytorch_model.bin")
    return Published(tuple(HubFile(repo, name) for name in names), convert=clip_weights)


def hps(path: str) -> Published:
    """Weights in open_clip's layout, inside of a training checkpoint."""
    return Published((HubFile("xswu/HPSv2", path),), inside="state_dict", convert=clip_weights)


CARDS = {
    "clip": RewardCard(
        "clip",
        "CLIP score of LAION's ViT-H/14",
        "exp(logit scale) x cosine, usually 15 to 40",
        "MIT",
        in_folder(LAION),
        VIT_H_14,
        (HubFile(LAION, "config.json"),),
    ),
    "pickscore": RewardCard(
        "pickscore",
        "PickScore v1: which of two images people picked",
        "exp(logit scale) x cosine, usually 17 to 25",
        "MIT (code); none stated for the weights",
        in_folder(PICKSCORE),
        VIT_H_14,
        (HubFile(PICKSCORE, "config.json"),),
    ),
    "hps_v2.0": RewardCard(
        "hps_v2.0",
        "Human Preference Score v2.0; not comparable with v2.1",
        "cosine, usually 0.23 to 0.30",
        "Apache-2.0",
        hps("HPS_v2_compressed.pt"),
        VIT_H_14,
    ),
    "hps_v2.1": RewardCard(
        "hps_v2.1",
        "Human Preference Score v2.1; not comparable with v2.0",
        "cosine, usually 0.14 to 0.36",
        "Apache-2.0",
        hps("HPS_v2.1_compressed.pt"),
        VIT_H_14,
    ),
}
SCALED = ("clip", "pickscore")


class ClipReward(Reward):
    """The cosine of image and prompt, multiplied by the model's own scale where `is_scaled`."""

    network: ClipNetwork

    def __init__(
        self,
        card: RewardCard,
        network: ClipNetwork,
        sizes: ClipSizes,
        is_scaled: bool,
        antialias: bool = True,
    ) -> None:
        super().__init__(card, network, sizes.vision_config.image_size, antialias)
        self.length, self.is_scaled = sizes.text_config.max_position_embeddings, is_scaled

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        ids = open_clip_tokens(prompts, self.length)
        device = next(self.network.text.parameters()).device
        return {"embedding": self.network.embed_tokens(ids.to(device))}

    def score(self, pixels: Tensor, text: RewardText) -> Tensor:
        cosine = (self.network.embed_images(pixels) * text.tensors["embedding"]).sum(-1)
        return self.network.logit_scale.float().exp() * cosine if self.is_scaled else cosine

    def offload_text(self) -> None:
        self.network.text.to("cpu")


def load(name: str, store: Store, sizes: ClipSizes | None = None) -> ClipReward:
    """One of `CARDS` with its weights."""
    return load_clip(CARDS[name], store, sizes, is_scaled=name in SCALED)


def blank(name: str) -> ClipReward:
    """One of `CARDS` without weights, in the sizes of H-14."""
    sizes = ClipSizes()
    return ClipReward(CARDS[name], on_meta(lambda: ClipNetwork(sizes)), sizes, name in SCALED)


def load_clip(
    card: RewardCard, store: Store, sizes: ClipSizes | None = None, is_scaled: bool = True
) -> ClipReward:
    """Any CLIP as a reward; its sizes are those of its config file, or of H-14 without one."""
    found, network = built(card, store, sizes, ClipNetwork)
    network = fill_reward(network, store.weights(card.weights), card)
    restore_positions(network.text)
    return ClipReward(card, network, found, is_scaled)
