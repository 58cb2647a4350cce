"""Feature networks: images in, features and class logits out."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor, nn

from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.digits import CLASSES


class DigitsFeatures(nn.Module):
    """A small classifier of 8x8 digits; its last hidden layer is the feature space of the FID."""

    name = "digits-cnn-64"
    dimensions = 64

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(192, self.dimensions),
            nn.GELU(),
        )
        self.classify = nn.Linear(self.dimensions, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, 8, 8] in [-1, 1] to features [B, 64] and class logits [B, 10]."""
        features = self.trunk(images.mean(1, keepdim=True))
        return features, self.classify(features)


def load_digits_features() -> DigitsFeatures:
    """The feature network that ships in the package, frozen."""
    network = DigitsFeatures()
    network.load_state_dict(load_file(builtin_path("digits_features.safetensors")))
    return network.requires_grad_(False).eval()
