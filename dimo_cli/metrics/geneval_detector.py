"""The detector of dimo's GenEval: a Mask2Former of transformers, and CLIP for the colors.

The benchmark's own detector is a Mask2Former of the same architecture from another training run,
which current libraries no longer run. Scores of the two differ a little, so those of this one carry
its name and hash, and are never called plain `geneval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dimo_cli.errors import MissingError
from dimo_cli.hub.loading import described_by
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.metrics.clip_score import clip_pixels, published_sha256
from dimo_cli.metrics.geneval import Box, Detection, Rules
from dimo_cli.metrics.geneval_requests import CLASSES, COLORS
from dimo_cli.rewards.clip import ClipReward, in_folder, load_clip
from dimo_cli.rewards.clip_network import ClipSizes
from dimo_cli.rewards.protocol import RewardCard
from dimo_cli.teachers.clip_text import open_clip_tokens

if TYPE_CHECKING:
    from dimo_cli.hub.store import HubStore

MASK2FORMER = "facebook/mask2former-swin-small-coco-instance"
CONFIG = HubFile(MASK2FORMER, "config.json")
WEIGHTS = Published(
    tuple(HubFile(MASK2FORMER, name) for name in ("model.safetensors", "pytorch_model.bin"))
)
# What one version of the library saves and another does not, none of which a detection depends on:
NOT_WEIGHTS = (
    "relative_position_index",  # the numbers of Swin's windows, which follow from their size
    "swin.layernorm.weight",  # the norm of Swin's last state, which only a classifier reads
    "swin.layernorm.bias",
    "criterion.empty_weight",  # the weight of the class "none" in the training loss
)
MOST_INSTANCES = 100
SHORTER, LONGER, DIVISOR = 800, 1333, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CLIP_REPO = "openai/clip-vit-large-patch14"
CLIP_CARD = RewardCard(
    "clip_l14",
    "OpenAI's CLIP L/14",
    "cosine",
    "MIT",
    in_folder(CLIP_REPO),
    427_616_513,
    (HubFile(CLIP_REPO, "config.json"),),
)
COLOR_PHRASES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
GRAY = 0x99

Instances = list[tuple[int, Detection]]
"""Detections with the number of their class."""


def detector_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the network's input: shorter side 800 unless the longer exceeds 1333.

    Both are rounded up to what the network's strides divide, as its library does.
    """
    scale = min(SHORTER / min(height, width), LONGER / max(height, width))
    rounded = [math.ceil(round(scale * side) / DIVISOR) * DIVISOR for side in (height, width)]
    return rounded[0], rounded[1]


def detector_pixels(image: Tensor) -> Tensor:
    """An image of bytes [3, H, W] as the network's input [1, 3, H', W']."""
    size = detector_size(*image.shape[-2:])
    resized = F.interpolate(image[None].float() / 255, size, mode="bilinear", antialias=True)
    mean, std = resized.new_tensor(MEAN), resized.new_tensor(STD)
    return (resized - mean[:, None, None]) / std[:, None, None]


def tight_box(mask: Tensor) -> Box:
    """The box of a mask [H, W] that is not empty; right and bottom lie behind its last pixels."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    left, top, right, bottom = (float(corner) for corner in corners)
    return left, top, right, bottom


def find_instances(
    class_logits: Tensor, mask_logits: Tensor, height: int, width: int, least: float
) -> Instances:
    """Objects from the logits of queries [Q, C + 1] and their masks [Q, h, w], the last class none.

    The 100 likeliest pairs of a query and a class are objects. The score is the probability of the
    class times the mean probability of the mask inside of it. Both are at most one, so what is not
    above `least` by its class alone is left out before a mask is made.
    """
    chances = class_logits.softmax(-1)[:, :-1]
    top, places = chances.flatten().topk(min(MOST_INSTANCES, chances.numel()))
    found: Instances = []
    for chance, place in zip(top.tolist(), places.tolist(), strict=True):
        if chance <= least:
            break
        query, label = divmod(place, chances.shape[1])
        logits = F.interpolate(
            mask_logits[None, None, query], (height, width), mode="bilinear", align_corners=False
        )[0, 0]
        mask = logits > 0
        if not mask.any():
            continue
        score = chance * float(logits[mask].sigmoid().mean())
        found.append((label, Detection(tight_box(mask), score, mask.cpu().numpy())))
    return found


class ColorNames:
    """The nearest of ten color names for the objects of an image, by CLIP."""

    def __init__(self, clip: ClipReward) -> None:
        self.clip = clip
        self._classes: dict[str, Tensor] = {}

    def embeddings(self, name: str) -> Tensor:
        """Unit vectors [10, P] of a class in every color, each the mean of three phrases."""
        if name not in self._classes:
            phrases = [phrase.format(color, name) for color in COLORS for phrase in COLOR_PHRASES]
            tokens = open_clip_tokens(phrases, self.clip.length).to(self.clip.device)
            each = self.clip.network.embed_tokens(tokens).unflatten(0, (len(COLORS), -1))
            self._classes[name] = F.normalize(each.mean(1), dim=-1)
        return self._classes[name]

    @torch.inference_mode()
    def __call__(self, image: Tensor, name: str, objects: Sequence[Detection]) -> list[str]:
        """The color of each object of a class in an image of bytes [3, H, W]."""
        pixels = image.permute(1, 2, 0).cpu().numpy()
        crops = [clip_pixels(crop(pixels, thing), self.clip.image_size) for thing in objects]
        seen = self.clip.network.embed_images(torch.stack(crops).to(self.clip.device))
        return [COLORS[best] for best in (seen @ self.embeddings(name).T).argmax(-1).tolist()]


def crop(pixels: np.ndarray[Any, Any], thing: Detection) -> Image.Image:
    """The box of an object, with gray where the object is not."""
    if thing.mask is not None:
        pixels = np.where(thing.mask[..., None], pixels, np.uint8(GRAY))
    left, top, right, bottom = (round(edge) for edge in thing.box)
    return Image.fromarray(pixels).crop((left, top, right, bottom))


class Mask2FormerSource:
    """Detections of Mask2Former, colors of CLIP."""

    name = "mask2former"

    def __init__(
        self,
        network: nn.Module,
        colors: Callable[[Tensor, str, Sequence[Detection]], list[str]],
        hashes: dict[str, str],
        least: float = Rules().threshold,
    ) -> None:
        """Objects that cannot score above `least` are left out."""
        self.network = network.requires_grad_(False).eval()
        self.colors, self.hashes, self.least = colors, hashes, least

    def protocol(self) -> dict[str, Any]:
        """The networks and their hashes."""
        return {"detector": MASK2FORMER, "color_classifier": CLIP_REPO, **self.hashes}

    @torch.inference_mode()
    def detect(self, image: Tensor) -> dict[str, list[Detection]]:
        """The objects in an image of bytes [3, H, W], by class."""
        device = next(self.network.parameters()).device
        output = self.network(pixel_values=detector_pixels(image.to(device)))
        classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
        height, width = image.shape[-2:]
        found: dict[str, list[Detection]] = {}
        for label, thing in find_instances(classes, masks, height, width, self.least):
            found.setdefault(CLASSES[label], []).append(thing)
        return found


def load_mask2former(store: HubStore) -> nn.Module:
    """The published detector, strictly.

    The library's own loader fills it, for it knows the names of parts under which older versions
    of it saved them.
    """
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    config, weights = store.config(CONFIG), store.weights(WEIGHTS)
    with described_by(CONFIG):
        kind, labels = config.get("model_type"), len(config.get("id2label", CLASSES))
    if kind != "mask2former" or labels != len(CLASSES):
        raise MissingError(
            f"`{CONFIG}` is of a {kind} with {labels} classes, not of a mask2former with "
            f"{len(CLASSES)}.",
            "GenEval needs a detector of COCO's instances.",
        )
    with library_is_quiet(), described_by(CONFIG):
        network, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            None,
            config=Mask2FormerConfig.from_dict(config),
            state_dict=weights,
            ignore_mismatched_sizes=True,  # to be reported, and refused below
            output_loading_info=True,
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = report[problem]
        names = sorted(name if isinstance(name, str) else name[0] for name in found)
        names = [name for name in names if not name.endswith(NOT_WEIGHTS)]
        if names:
            raise MissingError(
                f"`{WEIGHTS.files[0]}` does not fit its config: {problem.replace('_', ' ')}, "
                f"first {names[0]}.",
                f"Is it the file of {MASK2FORMER}?",
            )
    return network


@contextmanager
def library_is_quiet() -> Iterator[None]:
    """Without transformers' reports and bars: whatever it would report is an error here."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def load_detector(
    store: HubStore, device: torch.device | str = "cpu", clip_sizes: ClipSizes | None = None
) -> Mask2FormerSource:
    """Detector and color classifier with their weights; `clip_sizes` is for a CLIP of one's own."""
    network = load_mask2former(store).to(device)
    clip = load_clip(CLIP_CARD, store, clip_sizes, is_scaled=False).to(device)
    hashes = {
        "detector_sha256": published_sha256(store, WEIGHTS),
        "color_classifier_sha256": published_sha256(store, CLIP_CARD.weights),
    }
    return Mask2FormerSource(network, ColorNames(clip), hashes)
