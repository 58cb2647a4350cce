"""Real pictures of `emoji` that ship: what pictures are compared with, and what a GAN trains on.

The two have no picture in common. What they are compared with is drawn for the captions that
`dimo eval` draws students for, so that both ask for the same things, backgrounds and places.
"""

import json
import random

import numpy as np
import torch
from safetensors.torch import save_file

from dimo_cli.metrics.emoji_reader import load_emoji
from dimo_cli.metrics.frechet import RunningGaussian
from dimo_cli.teachers.emoji import CAPTIONS_SEED, random_picture, world

COMPARED, FEATURES, TRAINED_ON = 5000, 2500, 2500
DATA_SEED = 5_000_000


def looks_with_captions(count, seed):
    """The pictures that the teacher's captions of this seed were made of, and the captions."""
    rng = random.Random(seed)
    return [random_picture(rng) for _ in range(count)]


def pictures_of(looks, drawings):
    """Bytes [N, 3, 32, 32]."""
    pictures = np.stack([world.compose(look, drawings) for look in looks])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def keep_reference(drawings, folder):
    """Statistics of the pictures behind the captions, and the features of the first of them."""
    network = load_emoji(folder / "emoji_features.safetensors")
    looks = [look for look, _ in looks_with_captions(COMPARED, CAPTIONS_SEED)]
    running, kept = RunningGaussian(network.dimensions), []
    for part in pictures_of(looks, drawings).split(500):
        kept.append(network(part).vectors)
        running.add(kept[-1])
    stats = running.gaussian()
    reference = {
        "mean": stats.mean,
        "covariance": stats.covariance,
        "count": torch.tensor(stats.count),
        "features": torch.cat(kept)[:FEATURES].half(),
    }
    save_file(reference, folder / "emoji_reference.safetensors")


def others_with_captions():
    """Pictures that nothing is compared with, and their captions."""
    compared = {look for look, _ in looks_with_captions(COMPARED, CAPTIONS_SEED)}
    others = looks_with_captions(2 * TRAINED_ON, DATA_SEED)
    return [pair for pair in others if pair[0] not in compared][:TRAINED_ON]


def keep_real_tokens(drawings, tokenizer, folder):
    """Other pictures as tokens, with their captions."""
    looks, captions = zip(*others_with_captions(), strict=True)
    images = pictures_of(looks, drawings).float() / 127.5 - 1
    tokens = torch.cat([tokenizer.encode(part) for part in images.split(250)])
    text = np.frombuffer(json.dumps(captions).encode(), np.uint8)
    data = {
        "tokens": tokens.squeeze(-1).to(torch.int16),
        "captions": torch.from_numpy(text.copy()),
    }
    save_file(data, folder / "emoji_data.safetensors")
