"""Trains the networks behind the teacher `shapes`: tokenizer, then text encoder and transformer.

    python examples/train_shapes.py --out runs/shapes-teacher          (some hours on 2 CPU cores)

Stopped and started again with the same --out, it goes on from its last checkpoint.
"""

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from dimo_cli.engine.masking import draw_ratio, forward_mask
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import MASK_ID, ShapesBackbone, ShapesText, words_to_ids
from dimo_cli.teachers.shapes.tokenizer import CODE_WIDTH, CODES, ShapesTokenizer, move_codebook


def pictures_and_captions(count, seed):
    """Random scenes as pictures [N, 32, 32, 3] (bytes) and captions."""
    rng, pictures, captions = random.Random(seed), [], []
    for _ in range(count):
        scene = world.random_scene(rng)
        pictures.append(torch.from_numpy(world.render(*world.compose(scene, rng))))
        captions.append(world.caption(scene, rng))
    return torch.stack(pictures), captions


def as_images(pictures):
    """Bytes [B, H, W, 3] as images [B, 3, H, W] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def decaying_rate(step, steps, top, warmup=100):
    """Linear warm-up, then half a cosine down to a fiftieth."""
    if step < warmup:
        return top * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return top * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def train_tokenizer(pictures, steps):
    """Reconstruction, first without codes, then with a codebook that follows its vectors."""
    tokenizer = ShapesTokenizer()
    optimizer = torch.optim.Adam(tokenizer.parameters(), betas=(0.9, 0.99))
    counts, sums = torch.ones(CODES), torch.zeros(CODES, CODE_WIDTH)
    for step in range(steps):
        images = as_images(pictures[torch.randint(len(pictures), (64,))])
        latents = tokenizer.latents(images)
        if step == steps // 8:
            vectors = latents.detach().flatten(0, 1)
            sums = vectors[torch.randperm(len(vectors))[:CODES]].clone()
            tokenizer.codebook.weight.data.copy_(sums)
        rounded, tokens, distance = tokenizer.commitment(latents)
        with_codes = step >= steps // 8
        error = tokenizer.paint(rounded if with_codes else latents) - images
        loss = error.square().mean() + error.abs().mean() + 0.25 * with_codes * distance
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 2e-3)
        optimizer.step()
        if steps // 8 <= step < 0.9 * steps:
            move_codebook(tokenizer, latents, tokens, counts, sums)
        if step % 100 == 0:
            used = len(tokens.unique())
            print(
                f"tokenizer {step}: squared error {error.square().mean():.4f}, {used} codes",
                flush=True,
            )
    return tokenizer


@torch.inference_mode()
def encode_all(tokenizer, pictures):
    """Every picture as tokens [N, L, 1]."""
    return torch.cat([tokenizer.encode(as_images(part)) for part in pictures.split(256)])


def train_teacher(tokens, words, steps, folder):
    """Masked tokens from the rest and the caption; one caption in ten is left out."""
    text, backbone = ShapesText(), ShapesBackbone()
    both = torch.nn.ModuleDict({"text": text, "backbone": backbone})
    average = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    optimizer = torch.optim.AdamW(both.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    first, checkpoint = 0, folder / "teacher.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        first, average = state["step"], state["average"]
    generator = torch.Generator().manual_seed(first)
    for step in range(first, steps):
        rows = torch.randint(len(tokens), (64,), generator=generator)
        x_tilde, mask = forward_mask(
            tokens[rows], draw_ratio("arccos", 64, generator), MASK_ID, generator
        )
        ids = words[rows].masked_fill(torch.rand(64, 1, generator=generator) < 0.1, 0)
        logits = backbone(x_tilde, Cond({"text": text(ids)}))
        loss = F.cross_entropy(logits[mask], tokens[rows][mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 1e-3, 300)
        optimizer.step()
        for name, tensor in both.state_dict().items():
            average[name].lerp_(tensor, 1 - min(0.999, (1 + step) / (10 + step)))
        if step % 100 == 0:
            print(f"teacher {step}: cross-entropy {loss:.4f}", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            state = {"both": both.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "average": average, "step": step + 1}, folder / "new.pt")
            (folder / "new.pt").replace(checkpoint)
            for part in ("text", "backbone"):
                weights = {
                    name.removeprefix(f"{part}."): tensor.half()
                    for name, tensor in average.items()
                    if name.startswith(f"{part}.")
                }
                save_file(weights, folder / f"shapes_{part}.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=120_000)
    parser.add_argument("--tokenizer-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=14_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pictures, captions = pictures_and_captions(options.pictures, seed=0)
    path = options.out / "shapes_tokenizer.safetensors"
    if not path.exists():
        tokenizer = train_tokenizer(pictures, options.tokenizer_steps)
        save_file({name: t.half() for name, t in tokenizer.state_dict().items()}, path)
    tokenizer = ShapesTokenizer()
    tokenizer.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    tokens = encode_all(tokenizer, pictures)
    train_teacher(tokens, words_to_ids(captions), options.steps, options.out)


if __name__ == "__main__":
    main()
