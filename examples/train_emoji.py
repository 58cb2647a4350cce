"""Trains the networks behind the teacher `emoji`: tokenizer, text encoder, then transformer.

    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6
    pip install resvg-py
    python examples/train_emoji.py --packages . --out runs/emoji-teacher    (hours on 2 CPU cores)

Stopped and started again with the same --out, it goes on from its last checkpoint.
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emoji_drawings import drawings_of
from safetensors.torch import save_file

from dimo_cli.teachers.emoji import world
from dimo_cli.teachers.emoji.tokenizer import CODE_WIDTH, CODES, EmojiTokenizer
from dimo_cli.teachers.patches import move_codebook

PAIRS = [
    (thing, style)
    for thing in range(len(world.things()))
    for style in world.STYLES
    if (thing, style) not in world.held_out()
]


def draw_batch(drawings, size, rng, pairs=PAIRS):
    """Random pictures as images [B, 3, 32, 32] in [-1, 1], and what they look like."""
    looks = [world.random_look(rng, pairs) for _ in range(size)]
    pictures = np.stack([world.compose(look, drawings) for look in looks])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1, looks


def decaying_rate(step, steps, top):
    """Linear warm-up of 100 steps, then half a cosine down to a fiftieth."""
    if step < 100:
        return top * (step + 1) / 100
    done = (step - 100) / max(1, steps - 100)
    return top * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


class Checkpoint:
    """Where a training stands, kept now and then so that a later run goes on from there."""

    def __init__(self, path, every=250):
        self.path, self.every = path, every

    def read(self):
        """What was kept last, or None."""
        return torch.load(self.path, weights_only=True) if self.path.exists() else None

    def is_due(self, step, steps):
        """Whether to keep something after this step."""
        return (step + 1) % self.every == 0 or step + 1 == steps

    def keep(self, **state):
        """Replace what was kept."""
        new = self.path.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.path)


def psnr(tokenizer, images):
    """How well pictures survive their tokens, in dB."""
    with torch.no_grad():
        error = tokenizer.decode(tokenizer.encode(images)) - images
    return 10 * math.log10(4 / error.square().mean())


def train_tokenizer(drawings, steps, folder):
    """Reconstruction, first without codes, then with a codebook that follows its vectors."""
    tokenizer = EmojiTokenizer()
    optimizer = torch.optim.Adam(tokenizer.parameters(), betas=(0.9, 0.99))
    counts, sums = torch.ones(CODES), torch.zeros(CODES, CODE_WIDTH)
    held_out, _ = draw_batch(drawings, 256, random.Random(1), sorted(world.held_out()))
    checkpoint, first = Checkpoint(folder / "tokenizer.pt"), 0
    if state := checkpoint.read():
        tokenizer.load_state_dict(state["tokenizer"])
        optimizer.load_state_dict(state["optimizer"])
        first, counts, sums = state["step"], state["counts"], state["sums"]
    start = steps // 12
    torch.manual_seed(first)
    for step in range(first, steps):
        images, _ = draw_batch(drawings, 32, random.Random(step))
        latents = tokenizer.latents(images)
        if step == start:
            vectors = latents.detach().flatten(0, 1)
            sums = vectors[torch.randperm(len(vectors))[:CODES]].clone()
            tokenizer.codebook.weight.data.copy_(sums)
        rounded, tokens, distance = tokenizer.commitment(latents)
        with_codes = step >= start
        error = tokenizer.paint(rounded if with_codes else latents) - images
        loss = error.square().mean() + 0.2 * error.abs().mean() + 0.25 * with_codes * distance
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 2e-3)
        optimizer.step()
        if start <= step < 0.9 * steps:
            move_codebook(tokenizer, latents, tokens, counts, sums)
        if step % 50 == 0:
            used, quality = len(tokens.unique()), psnr(tokenizer, held_out)
            say(f"tokenizer {step}: squared error {error.square().mean():.5f}, {used} codes, held out {quality:.2f} dB")
        if checkpoint.is_due(step, steps):
            state = {"tokenizer": tokenizer.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.keep(**state, counts=counts, sums=sums, step=step + 1)
    return tokenizer


def say(line):
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def save_half(weights, path):
    """Weights in half precision, as they ship."""
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path, default=Path(), help="folder of the npm packages")
    parser.add_argument("--tokenizer-steps", type=int, default=2200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    drawings = drawings_of(options.packages, options.out / "drawings.safetensors")
    tokenizer = train_tokenizer(drawings, options.tokenizer_steps, options.out)
    save_half(tokenizer.state_dict(), options.out / "emoji_tokenizer.safetensors")


if __name__ == "__main__":
    main()
