"""The network that reads pictures of `emoji`: which thing, in which style, on what, how and where.

It is the judge of the benchmark, and its last hidden layer is where distances of such pictures are
measured. No reward has its weights or its seeds. It names 99.7 % of the drawings, which as a judge
it was trained on, and sees a thing on 2 % of pictures that are half another. What is whole it has
learned by the rule that rewards learn from as well. `examples/train_emoji_judges.py` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.metrics.protocol import FeatureNetwork, Features
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.emoji.world import BACKGROUNDS, PLACES, SIDE, SIZES, STYLES, Look, things
from dimo_cli.teachers.small import fill_from

FILE = "emoji_features.safetensors"
MIRRORED = (False, True)
NOTHING = len(things())
"""The answer for a picture that is not whole: halves of two drawings, or patches of many."""
SURE = 0.5
"""Least share of belief that one thing has to have for a picture to show it."""


def answers() -> dict[str, tuple[object, ...]]:
    """What can be said of a picture, by the field of a look: a number of an answer is its place."""
    return {
        "thing": tuple(range(len(things()))),
        "style": STYLES,
        "background": tuple(BACKGROUNDS),
        "size": tuple(SIZES),
        "place": tuple(PLACES),
        "mirrored": MIRRORED,
    }


def numbers_of(look: Look) -> list[int]:
    """A look as the number of the answer to each question."""
    return [known.index(getattr(look, name)) for name, known in answers().items()]


def look_of(numbers: Sequence[int]) -> Look:
    """The look that has these answers."""
    found = {
        name: known[number]
        for (name, known), number in zip(answers().items(), numbers, strict=True)
    }
    return Look(**found)  # type: ignore[arg-type]


def convolution(before: int, after: int, side: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, or halves it."""
    return [
        nn.Conv2d(before, after, side, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]


class EmojiReader(nn.Module):
    """Convolutions, one hidden layer of what was seen, and an answer to each question."""

    dimensions = 64

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *convolution(3, 28, 4, stride=2),
            *convolution(28, 48, 3),
            nn.AvgPool2d(2),
            *convolution(48, 80, 3),
            *convolution(80, 96, 4, stride=2),
            nn.Flatten(),
            nn.Linear(96 * (SIDE // 8) ** 2, self.dimensions, bias=False),
            nn.BatchNorm1d(self.dimensions),
            nn.GELU(),
        )
        self.name = nn.Linear(self.dimensions, NOTHING + 1, bias=False)
        rest = [len(known) for field, known in answers().items() if field != "thing"]
        self.others = nn.ModuleList(nn.Linear(self.dimensions, count) for count in rest)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images [B, 3, 32, 32] in [-1, 1] to features [B, 64], and logits by question."""
        features = self.trunk(images)
        return features, [self.name(features), *(head(features) for head in self.others)]


class EmojiNetwork(FeatureNetwork):
    """The reader of `emoji`, on bytes."""

    name, dimensions, resize = "emoji-cnn-64", EmojiReader.dimensions, "none"

    def __init__(self, network: EmojiReader, sha256: str) -> None:
        super().__init__()
        self.network, self.sha256 = network.requires_grad_(False), sha256
        self.classes = NOTHING
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        vectors, logits = self.network(as_input(images))
        return Features(vectors, logits[0][:, :NOTHING])

    @torch.no_grad()
    def looks(self, images: Tensor) -> list[Look | None]:
        """What is on pictures of bytes [B, 3, 32, 32]; None where it is sure of no thing."""
        _, logits = self.network(as_input(images))
        sure = logits[0].softmax(-1)[:, :NOTHING].amax(-1) >= SURE
        numbers = torch.stack([part.argmax(-1) for part in logits], dim=1)
        pairs = zip(numbers.tolist(), sure.tolist(), strict=True)
        return [look_of(row) if is_sure else None for row, is_sure in pairs]


def as_input(images: Tensor) -> Tensor:
    """Bytes as the reader takes them; pictures of another size are refused."""
    height, width = images.shape[-2:]
    if (height, width) != (SIDE, SIDE):
        raise SpecError(
            f"The reader of `emoji` looks at {SIDE}x{SIDE} pictures; these are {width}x{height}.",
            "Other images are for `inception` or `dinov2`, and a reference of theirs.",
        )
    return images.float() / 127.5 - 1


def load_emoji(path: Path | None = None) -> EmojiNetwork:
    """The reader that ships in the package, or one that the training script wrote."""
    path = path or Path(builtin_path(FILE))
    if not path.is_file():
        raise MissingError(
            f"The feature network of `emoji` is not there: `{path}`.",
            "Train it with `python examples/train_emoji_judges.py --teacher FOLDER --out FOLDER`.",
        )
    return EmojiNetwork(fill_from(EmojiReader(), path), file_sha256(path))
