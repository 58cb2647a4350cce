"""CLIP score of COCO-30K: the mean cosine of images and their captions, by open_clip's ViT-g/14.

The protocol is that of GigaGAN and DMD2: images go through 256 pixels first, and every caption is
read with "A photo depicts" before it. The cosine is not multiplied by anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dimo_cli.data.arrays import Batch
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.metrics.per_image import PromptMetric
from dimo_cli.metrics.protocol import Result
from dimo_cli.metrics.resize import threads
from dimo_cli.rewards.clip import ClipReward, load_clip
from dimo_cli.rewards.clip_network import ClipSizes, clip_weights
from dimo_cli.rewards.preprocess import center_crop, normalize
from dimo_cli.rewards.protocol import RewardCard
from dimo_cli.teachers.clip_text import open_clip_tokens

if TYPE_CHECKING:
    from dimo_cli.hub.store import HubStore

LAION = "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"
WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
CARD = RewardCard(
    "clip_g14",
    "CLIP score of LAION's ViT-g/14",
    "cosine, usually 0.25 to 0.35",
    "MIT",
    Published(tuple(HubFile(LAION, name) for name in WEIGHTS), convert=clip_weights),
    1_366_678_273,
    (HubFile(LAION, "config.json"),),
)
SIDE = 256
A_PHOTO_DEPICTS = (320, 1125, 29340)
END = 49407


def with_prefix(rows: Tensor) -> Tensor:
    """Token rows [B, T] with "A photo depicts" behind the start token.

    What no longer fits is cut, and where that cuts the end token its place is the last one.
    """
    prefix = torch.tensor(A_PHOTO_DEPICTS).expand(len(rows), -1)
    longer = torch.cat([rows[:, :1], prefix, rows[:, 1:]], dim=1)[:, : rows.shape[1]]
    longer[:, -1] = torch.where(longer[:, -1] == 0, 0, END)
    return longer


def to_picture(image: Tensor) -> Image.Image:
    """An image of bytes [3, H, W] as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def coco_square(image: Tensor) -> Image.Image:
    """The square in the middle of an image of bytes [3, H, W], at 256 pixels."""
    square = center_crop(image, min(image.shape[-2:]))
    return to_picture(square).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def clip_pixels(picture: Image.Image, size: int) -> Tensor:
    """A picture as open_clip shows it to its networks: normalized [3, size, size]."""
    width, height = (int(size * side / min(picture.size)) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return normalize(pixels[None], size)[0]


def published_sha256(store: HubStore, published: Published) -> str:
    """Hash of the file that these weights are read from."""
    _, located = store.first(published)
    return located.sha256 or file_sha256(located.path)


class ClipScore(PromptMetric):
    """The mean cosine of images and captions."""

    name = "clip_score_g14"

    def __init__(self, clip: ClipReward, sha256: str) -> None:
        super().__init__()
        self.clip, self.sha256 = clip, sha256

    def score(self, batch: Batch) -> Tensor:
        network, device = self.clip.network, self.clip.device
        pixels = torch.stack(list(threads().map(self.look, batch.images.cpu())))
        tokens = with_prefix(open_clip_tokens(batch.prompts, self.clip.length))
        captions = network.embed_tokens(tokens.to(device))
        return (network.embed_images(pixels.to(device)) * captions).sum(-1)

    def look(self, image: Tensor) -> Tensor:
        """What the network sees of an image of bytes [3, H, W]."""
        return clip_pixels(coco_square(image), self.clip.image_size)

    def judge(self) -> dict[str, Any]:
        return {"network": "ViT-g-14/laion2b_s12b_b42k", "network_sha256": self.sha256}

    def results(self) -> list[Result]:
        mean, error = self.mean()
        protocol = {
            **self.judge(),
            "resize": f"center crop, lanczos {SIDE}, bicubic {self.clip.image_size}",
            "caption": "A photo depicts ...",
            "images": len(self.scores),
        }
        return [Result(self.name, mean, protocol, {"standard_error": error})]


def load_clip_score(
    store: HubStore, device: torch.device | str = "cpu", sizes: ClipSizes | None = None
) -> ClipScore:
    """The metric with its network; `sizes` is for a network of one's own."""
    clip = load_clip(CARD, store, sizes, is_scaled=False).to(device)
    return ClipScore(clip, published_sha256(store, CARD.weights))
