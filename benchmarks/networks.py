"""Teachers with random weights in the shapes that are measured: small ones, and the real sizes."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.blueprint import finish
from dimo_cli.teachers.conditioning import PromptConditioner, TextEncoder
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import blueprint_of

# Depth 6, width 256, 256 tokens of 1024 codes: MaskGit's shape at a laptop's size.
MASKGIT_SMALL: dict[str, Any] = {
    "depth": 6,
    "hidden_dim": 256,
    "heads": 8,
    "mlp_dim": 1024,
    "ch": 64,
}
# 1024 tokens of 8192 codes through a transformer that sees half the grid, as Meissonic's does.
MEISSONIC_SMALL: dict[str, Any] = {
    "image_size": 512,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 8,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 256,
    "axes_dims_rope": (8, 12, 12),
    "vqvae": {"block_out_channels": (32, 64, 64, 128, 192)},
}
PROMPTS = [f"picture number {number}" for number in range(64)]


TOKEN_IDS = "ids"  # a feature by this name is whole numbers, those of any text


class RandomText(TextEncoder):
    """Features of the right shapes, which are a text's own and mean nothing."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {
            name: torch.stack([self.feature(name, prompt) for prompt in prompts])
            for name in self.shapes
        }

    def feature(self, name: str, prompt: str) -> Tensor:
        """The feature of one text."""
        own = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        shape = self.shapes[name]
        if name == TOKEN_IDS:
            return torch.randint(8, shape, generator=own)
        return torch.randn(shape, generator=own)

    def to(self, device: torch.device | str) -> None:
        pass


def random_teacher(
    name: str, architecture: dict[str, Any] | None = None, device: torch.device | str = "cpu"
) -> Teacher:
    """A teacher of a family in a given shape, with the weights of a fixed seed."""
    torch.manual_seed(0)
    blueprint = blueprint_of(TeacherSource(name=name, architecture=architecture or {}))
    with torch.device(device):
        backbone = blueprint.build_backbone().requires_grad_(False).eval()
        tokenizer = blueprint.build_tokenizer().requires_grad_(False).eval()
    teacher = finish(blueprint, backbone, tokenizer, None, "random")
    conditioner = teacher.conditioner
    if isinstance(conditioner, PromptConditioner):
        encoder = RandomText(dict(conditioner.shapes))
        conditioner.load_encoder = lambda: encoder
        conditioner.dataset = PROMPTS
    return teacher.to(device)
