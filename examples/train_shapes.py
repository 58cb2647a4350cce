"""Trains the networks behind the teacher `shapes`: tokenizer, text encoder, then transformer.

    python examples/train_shapes.py --out runs/shapes-teacher     (an hour on 2 CPU cores)

Stopped and started again with the same --out, it goes on from its last checkpoint.
"""

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dimo_cli.engine.masking import draw_ratio, forward_mask
from dimo_cli.teachers.patches import move_codebook
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import (
    MASK_ID,
    SUMMARY,
    WIDTH,
    ShapesBackbone,
    ShapesText,
    words_to_ids,
)
from dimo_cli.teachers.shapes.tokenizer import CODE_WIDTH, CODES, ShapesTokenizer
from dimo_cli.teachers.small import fill_from

CLEAN_STEPS = 1250  # what pictures look like is learned first, then to see mistakes in them


def draw_world(count, seed):
    """Random scenes, their pictures [N, 32, 32, 3] (bytes) and their captions."""
    rng, scenes, pictures, captions = random.Random(seed), [], [], []
    for _ in range(count):
        scenes.append(world.random_scene(rng))
        pictures.append(torch.from_numpy(world.render(*world.compose(scenes[-1], rng))))
        captions.append(world.caption(scenes[-1], rng))
    return scenes, torch.stack(pictures), captions


def as_images(pictures):
    """Bytes [B, H, W, 3] as images [B, 3, H, W] in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def decaying_rate(step, steps, top):
    """Linear warm-up of 100 steps, then half a cosine down to a fiftieth."""
    if step < 100:
        return top * (step + 1) / 100
    done = (step - 100) / max(1, steps - 100)
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


def facts_of(scene):
    """What a caption says of each of two groups: numbers from 0, which stands for unsaid."""
    sides = {None: 0, **{side: number for number, side in enumerate(world.OPPOSITE, start=1)}}
    seen_from_second = (scene.relation, world.OPPOSITE.get(scene.relation))
    facts = [
        [
            1 + world.SHAPES.index(group.shape),
            group.count,
            (None, *world.COLORS).index(group.color),
            (None, *world.SIZES).index(group.size),
            sides[side],
            (None, *world.BACKGROUNDS).index(scene.background),
        ]
        for group, side in zip(scene.groups, seen_from_second[: len(scene.groups)], strict=True)
    ]
    return [*facts, *[[0] * len(facts[0])] * (SUMMARY - len(facts))]


def train_text(words, scenes, steps):
    """A text encoder that reads: each of its states tells all that is said of one group."""
    facts = torch.tensor([facts_of(scene) for scene in scenes])
    text = ShapesText()
    heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, most + 1) for most in facts.amax((0, 1)))
    optimizer = torch.optim.AdamW([*text.parameters(), *heads.parameters()], betas=(0.9, 0.98))
    for step in range(steps):
        rows = torch.randint(len(words), (128,))
        states, wanted = text(words[rows]).flatten(0, 1), facts[rows].flatten(0, 1)
        answers = [head(states) for head in heads]
        loss = sum(F.cross_entropy(answer, wanted[:, i]) for i, answer in enumerate(answers))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 1e-3)
        optimizer.step()
        if step % 100 == 0:
            right = torch.stack([a.argmax(1) == wanted[:, i] for i, a in enumerate(answers)])
            read = right.all(0).float().mean()
            print(f"text {step}: loss {loss:.4f}, {read:.1%} read", flush=True)
    return text


def with_strays(tokens, generator):
    """In every second picture, up to three tenths of the tokens are those of another picture.

    A teacher that has seen clean pictures alone believes any token more than the caption: a few
    white ones on what shall be black, and all the rest gets white. A student makes such mistakes
    at first, and is to be told of them.
    """
    share = 0.3 * torch.rand(len(tokens), 1, 1, generator=generator)
    share[1::2] = 0
    is_stray = torch.rand(tokens.shape, generator=generator) < share
    return torch.where(is_stray, tokens.roll(1, 0), tokens)


def train_backbone(text, tokens, words, steps, folder, compiled=False):
    """Masked tokens from the rest and the caption; one caption in ten is left out."""
    backbone = ShapesBackbone()
    network = torch.compile(backbone) if compiled else backbone
    average = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(backbone.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    first, checkpoint = 0, folder / "backbone.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        backbone.load_state_dict(state["backbone"])
        optimizer.load_state_dict(state["optimizer"])
        first, average = state["step"], state["average"]
    generator = torch.Generator().manual_seed(first)
    for step in range(first, steps):
        rows = torch.randint(len(tokens), (64,), generator=generator)
        seen = tokens[rows] if step < CLEAN_STEPS else with_strays(tokens[rows], generator)
        x_tilde, mask = forward_mask(seen, draw_ratio("arccos", 64, generator), MASK_ID, generator)
        ids = words[rows].masked_fill(torch.rand(64, 1, generator=generator) < 0.1, 0)
        with torch.no_grad():
            cond = Cond({"text": text(ids)})
        logits = network(x_tilde, cond)
        loss = F.cross_entropy(logits[mask], tokens[rows][mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 300)  # the average below makes it settle
        optimizer.step()
        for name, tensor in backbone.state_dict().items():
            average[name].lerp_(tensor, 1 - min(0.999, (1 + step) / (10 + step)))
        if step % 100 == 0:
            print(f"teacher {step}: cross-entropy {loss:.4f}", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"backbone": backbone.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "average": average, "step": step + 1}, folder / "new.pt")
            (folder / "new.pt").replace(checkpoint)
            save_half(average, folder / "shapes_backbone.safetensors")


def save_half(weights, path):
    """Weights in half precision, as they ship."""
    save_file({name: tensor.half() for name, tensor in weights.items()}, path)


def once(path, network, train):
    """The network that an earlier run left at this path, or else the one that is trained now."""
    if not path.exists():
        save_half(train().state_dict(), path)
    return fill_from(network, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--tokenizer-steps", type=int, default=2500)
    parser.add_argument("--text-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    scenes, pictures, captions = draw_world(options.pictures, seed=0)
    words = words_to_ids(captions)
    tokenizer = once(
        options.out / "shapes_tokenizer.safetensors",
        ShapesTokenizer(),
        lambda: train_tokenizer(pictures, options.tokenizer_steps),
    )
    text = once(
        options.out / "shapes_text.safetensors",
        ShapesText(),
        lambda: train_text(words, scenes, options.text_steps),
    )
    tokens = encode_all(tokenizer, pictures)
    train_backbone(text, tokens, words, options.steps, options.out, options.compile)


if __name__ == "__main__":
    main()
