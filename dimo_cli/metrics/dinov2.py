"""DINOv2 ViT-L/14 as the feature network of FD-DINOv2, as in dgm-eval.

The features are the class token after the last norm. Images are resized straight to 224 x 224,
without a crop, so the processor that is published with the weights is not what is wanted here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dimo_cli.errors import MissingError
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.loading import described_by, fill, on_meta
from dimo_cli.hub.published import HubFile, Published, StateDict
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.protocol import FeatureNetwork, Features
from dimo_cli.metrics.resize import pil_bicubic
from dimo_cli.rewards.clip_network import renamed
from dimo_cli.rewards.networks import VisionSizes, VisionTransformer

REPO = "facebook/dinov2-large"
SIDE, PATCH = 224, 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG = HubFile(REPO, "config.json")
WEIGHTS = tuple(HubFile(REPO, name) for name in ("model.safetensors", "pytorch_model.bin"))

UNUSED = "embeddings.mask_token"  # stands for hidden patches, which only training has
NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "layernorm.": "norm.",
}
# DINOv2's own code stretches its positions by this much of a patch more than the new grid asks
# for. Published distances were measured with it; transformers leaves it out.
OFFSET = 0.1


class Dinov2Features(FeatureNetwork):
    """The class token [B, D]; there are no classes."""

    name = "dinov2-large"
    resize = f"pil_bicubic_{SIDE}"

    def __init__(self, network: VisionTransformer, sha256: str) -> None:
        super().__init__()
        self.network, self.sha256 = network.requires_grad_(False).eval(), sha256
        self.dimensions = network.cls_token.shape[-1]
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        pixels = pil_bicubic(images, SIDE).float() / 255
        mean, std = pixels.new_tensor(MEAN), pixels.new_tensor(STD)
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
        return Features(self.network(pixels)[:, 0])


def load_dinov2(store: HubStore) -> Dinov2Features:
    """The network with the published weights, from the Hub, a mirror or a local folder."""
    with described_by(CONFIG):
        sizes = read_sizes(store)
        network = on_meta(lambda: VisionTransformer(sizes))
    published = Published(WEIGHTS, convert=our_names)
    file, located = store.first(published)
    try:
        fill(network, store.weights(published), f"`{file}`")
    except MissingError as error:
        raise MissingError(error.message, f"Is it the published file of `{REPO}`?") from error
    return Dinov2Features(network, located.sha256 or file_sha256(located.path))


def read_sizes(store: HubStore) -> VisionSizes:
    """The sizes that the config file states, at the size that images are given at."""
    config = store.config(CONFIG)
    try:
        if config["patch_size"] != PATCH or config.get("use_swiglu_ffn"):
            raise MissingError(
                f"`{CONFIG}` describes another kind of DINOv2 than the large one.",
                f"Is it the published file of `{REPO}`?",
            )
        return VisionSizes(
            image_size=SIDE,
            patch_size=PATCH,
            hidden_size=config["hidden_size"],
            intermediate_size=int(config["hidden_size"] * config.get("mlp_ratio", 4)),
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=config["num_attention_heads"],
            layer_norm_eps=config.get("layer_norm_eps", 1e-6),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MissingError(
            f"`{CONFIG}` does not say what DINOv2's config says ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}).",
            f"Is it the published file of `{REPO}`?",
        ) from error


def our_names(weights: StateDict) -> StateDict:
    """The published weights under our names, at the size that images are given at."""
    ours = {renamed(name, NAMES): tensor for name, tensor in weights.items() if name != UNUSED}
    for block in sorted({name.rsplit(".norm1.", 1)[0] for name in ours if ".norm1." in name}):
        multiply_scale(ours, block, "layer_scale1", "attn.proj")
        multiply_scale(ours, block, "layer_scale2", "mlp.fc2")
        for kind in ("weight", "bias"):
            roles = ("query", "key", "value")
            parts = [f"{block}.attention.attention.{role}.{kind}" for role in roles]
            if all(part in ours for part in parts):
                ours[f"{block}.attn.qkv.{kind}"] = torch.cat([ours.pop(part) for part in parts])
    if "pos_embed" in ours:
        ours["pos_embed"] = stretch_positions(ours["pos_embed"], SIDE // PATCH)
    return ours


def multiply_scale(ours: StateDict, block: str, scale: str, matrix: str) -> None:
    """Multiply the scale that ends half a layer into the matrix before it."""
    names = [f"{block}.{scale}.lambda1", f"{block}.{matrix}.weight", f"{block}.{matrix}.bias"]
    for name in names:
        if name not in ours:  # without its scale a matrix would load, and be wrong
            raise MissingError(
                f"The weights of `{REPO}` lack `{name}`.", "Get the published file again."
            )
    factor, weight, bias = (ours.pop(name) for name in names)
    ours[names[1]], ours[names[2]] = factor[:, None] * weight, factor * bias


def stretch_positions(positions: Tensor, grid: int) -> Tensor:
    """Positions [1, 1 + N, D] of a square grid on another grid, as DINOv2's own code does it."""
    token, patches = positions[:, :1], positions[:, 1:]
    side = math.isqrt(patches.shape[1])
    if side == grid or side * side != patches.shape[1]:
        return positions
    square = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / side
    square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, square.flatten(2).transpose(1, 2).to(positions.dtype)], 1)
