"""Real pictures of `emoji`, as tokens: what a GAN trains on. The drawings do not ship."""

from __future__ import annotations

import json

from safetensors.torch import load_file
from torch import Tensor

from dimo_cli.teachers.builtin import builtin_path


def training_tokens() -> tuple[Tensor, list[str]]:
    """Pictures as tokens [N, 64, 1], with a caption of each.

    None of them is among those that a Frechet distance compares with.
    """
    data = load_file(builtin_path("emoji_data.safetensors"))
    captions = json.loads(bytes(data["captions"].tolist()))
    return data["tokens"].long()[..., None], captions
