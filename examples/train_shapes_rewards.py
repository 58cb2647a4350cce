"""Trains `shapes_clip` of the embedded rewards (half an hour on 2 CPU cores).

    python examples/train_shapes_rewards.py --teacher FOLDER --out FOLDER

It sees rendered pictures only, as CLIP sees photographs, and is a weak judge of generated ones.
`train_shapes_judges.py` trains those that are better.
"""

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from train_shapes import as_images, decaying_rate

from dimo_cli.rewards.shapes import ShapesClip
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import words_to_ids
from dimo_cli.teachers.shapes.tokenizer import ShapesTokenizer
from dimo_cli.teachers.small import fill_from


def triples(count, seed):
    """Pictures, their captions, and captions that are false of them by one thing."""
    rng, pictures, true, false = random.Random(seed), [], [], []
    for _ in range(count):
        scene = world.random_scene(rng)
        pictures.append(torch.from_numpy(world.render(*world.compose(scene, rng))))
        true.append(world.caption(scene, rng))
        false.append(world.caption(world.near_miss(scene, rng), rng))
    return torch.stack(pictures), words_to_ids(true), words_to_ids(false)


class Roughen:
    """Pictures as students make them: through the tokenizer, sometimes soft, sometimes noisy."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, pictures):
        images = as_images(pictures)
        vectors = self.tokenizer.codebook(self.tokenizer.encode(images).squeeze(-1))
        softness = 0.3 * torch.rand(len(images), 1, 1)
        images = self.tokenizer.paint(vectors + softness * torch.randn_like(vectors)).clamp(-1, 1)
        return images + 0.05 * torch.randn_like(images)


def train_clip(data, roughen, steps):
    """Each picture must find its caption among all captions of the batch and all near misses."""
    pictures, true, false = data
    network = ShapesClip()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in range(steps):
        rows = torch.randint(len(pictures), (96,))
        seen = network.embed_pictures(roughen(pictures[rows]))
        read = network.embed_text(torch.cat([true[rows], false[rows]]))
        logits = network.logit_scale.exp().clamp(max=60) * seen @ read.T
        target = torch.arange(len(rows))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(rows)].T, target)
        take_step(optimizer, loss, step, steps)
        if step % 100 == 0:
            hits = (logits[target, target] > logits[target, target + len(rows)]).float().mean()
            print(f"clip {step}: loss {loss:.3f}, prefers the truth {hits:.3f}", flush=True)
    return network


def take_step(optimizer, loss, step, steps, rate=1e-3):
    """One step of AdamW at the rate of the moment, which decays from `rate`."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = decaying_rate(step, steps, rate)
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_shapes.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = fill_from(ShapesTokenizer(), options.teacher / "shapes_tokenizer.safetensors")
    torch.manual_seed(10)
    network = train_clip(triples(options.pictures, seed=100), Roughen(tokenizer), options.steps)
    weights = {key: tensor.half() for key, tensor in network.state_dict().items()}
    save_file(weights, options.out / "shapes_clip.safetensors")


if __name__ == "__main__":
    main()
