"""Which feature networks there are, and the small ones that ship inside the package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimo_cli.errors import MissingError, SpecError, did_you_mean
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.dinov2 import load_dinov2
from dimo_cli.metrics.emoji_reader import load_emoji
from dimo_cli.metrics.features import DigitsFeatures, load_digits_features
from dimo_cli.metrics.inception import load_inception
from dimo_cli.metrics.protocol import FeatureNetwork, Features
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.digits import CLASSES, LEVELS
from dimo_cli.teachers.digits import SIDE as DIGITS_SIDE
from dimo_cli.teachers.shapes.world import COLORS, SHAPES
from dimo_cli.teachers.shapes.world import SIDE as SHAPES_SIDE
from dimo_cli.teachers.small import fill_from

DIGITS_FILE = "digits_features.safetensors"
SHAPES_FILE = "shapes_features.safetensors"


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """Where feature networks come from, and how Inception resizes."""

    resize: str = "clean"
    """`clean`, `legacy_tensorflow` or `legacy_pytorch`; other networks have one way only."""
    inception: Path | None = None
    """A file of Inception's weights, or a folder that has one."""
    download: bool = False
    """Whether Inception may be fetched from its authors."""
    store: HubStore | None = None
    """The Hub, a mirror or a local folder for what is published there; None for the Hub."""
    say: Callable[[str], None] = lambda line: None


def check_of_inception(networks: Collection[str], given: Mapping[str, str | None]) -> None:
    """Refuse options of Inception, by flag, where other networks alone look at the images."""
    for flag, value in given.items():
        if value is not None and "inception" not in networks:
            raise SpecError(
                f"`{flag}` is {value}, which is about Inception, and what looks at the images is "
                f"{', '.join(networks)}.",
                "Leave it out, or add `--features inception`.",
            )


def check_side(images: Tensor, side: int, what: str) -> None:
    """Refuse images of another size than the one that a network was trained on."""
    height, width = images.shape[-2:]
    if (height, width) != (side, side):
        raise SpecError(
            f"The feature network `{what}` looks at {side}x{side} images; these are "
            f"{width}x{height}.",
            "Other images are for `inception` or `dinov2`, and a reference of theirs.",
        )


class DigitsNetwork(FeatureNetwork):
    """The classifier of digits, on bytes.

    A digit has 17 gray levels, which bytes round; they are put back to the levels they stand for,
    so that a digit has the same features in memory and in a file.
    """

    name, dimensions, resize = DigitsFeatures.name, DigitsFeatures.dimensions, "17_levels"
    classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.network = load_digits_features()
        self.sha256 = file_sha256(Path(builtin_path(DIGITS_FILE)))
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        check_side(images, DIGITS_SIDE, "digits")
        levels = (images.float() * (LEVELS - 1) / 255).round()
        vectors, _ = self.network(levels * 2 / (LEVELS - 1) - 1)
        return Features(vectors, F.linear(vectors, self.network.classify.weight))

    @torch.no_grad()
    def guess(self, features: Features) -> Tensor:
        return self.network.classify(features.vectors).argmax(-1)


class ShapesFeatures(nn.Module):
    """A small network that reads pictures of shapes; its last hidden layer is the feature space.

    A class is a shape in a color. The logits have no bias from the start.
    """

    dimensions = 64

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * (SHAPES_SIDE // 8) ** 2, self.dimensions),
            nn.GELU(),
        )
        self.classify = nn.Linear(self.dimensions, len(SHAPES) * len(COLORS), bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, 32, 32] in [-1, 1] to features [B, 64] and logits [B, 18]."""
        features = self.trunk(images)
        return features, self.classify(features)


class ShapesNetwork(FeatureNetwork):
    """The reader of shapes, on bytes."""

    name, dimensions, resize = "shapes-cnn-64", ShapesFeatures.dimensions, "none"
    classes = len(SHAPES) * len(COLORS)

    def __init__(self, network: ShapesFeatures, sha256: str) -> None:
        super().__init__()
        self.network, self.sha256 = network.requires_grad_(False), sha256
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        check_side(images, SHAPES_SIDE, "shapes")
        return Features(*self.network(images.float() / 127.5 - 1))


def load_shapes(path: Path | None = None) -> ShapesNetwork:
    """The network that ships in the package, or one that the training script wrote."""
    path = path or Path(builtin_path(SHAPES_FILE))
    if not path.is_file():
        raise MissingError(
            f"The feature network of `shapes` is not there: `{path}`.",
            "Train it with `python examples/train_shapes_features.py --out FOLDER`.",
        )
    return ShapesNetwork(fill_from(ShapesFeatures(), path), file_sha256(path))


def load_inception_from(source: NetworkSource) -> FeatureNetwork:
    """Inception."""
    return load_inception(source.resize, source.inception, source.download, source.say)


def load_dinov2_from(source: NetworkSource) -> FeatureNetwork:
    """DINOv2."""
    return load_dinov2(source.store or HubStore(say=source.say))


LOADERS: dict[str, Callable[[NetworkSource], FeatureNetwork]] = {
    "inception": load_inception_from,
    "dinov2": load_dinov2_from,
    "digits": lambda source: DigitsNetwork(),
    "shapes": lambda source: load_shapes(),
    "emoji": lambda source: load_emoji(),
}


def check_network(name: str) -> None:
    """Refuse a feature network that does not exist."""
    if name not in LOADERS:
        raise SpecError(f"{name!r} is not a known feature network.", did_you_mean(name, LOADERS))


def load_network(
    name: str, source: NetworkSource | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """A feature network by name, frozen, on a device."""
    check_network(name)
    return LOADERS[name](source or NetworkSource()).to(device)
