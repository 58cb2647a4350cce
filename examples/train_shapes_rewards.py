"""Trains the two embedded rewards of `shapes` (minutes each on 2 CPU cores).

python examples/train_shapes_rewards.py --teacher FOLDER --out FOLDER
"""

import argparse
import random
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from train_shapes import as_images, decaying_rate

from dimo_cli.rewards.shapes import ShapesClip, ShapesJudge
from dimo_cli.teachers.shapes import fill_from, world
from dimo_cli.teachers.shapes.network import ShapesText, words_to_ids
from dimo_cli.teachers.shapes.tokenizer import ShapesTokenizer


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

    @torch.no_grad()
    def broken(self, pictures):
        """Pictures with patches of other pictures in them."""
        patches = self.tokenizer.encode(as_images(pictures))
        share = 0.02 + 0.3 * torch.rand(len(patches), 1, 1)
        swapped = torch.where(torch.rand(patches.shape) < share, patches.roll(1, 0), patches)
        return self.tokenizer.decode(swapped).clamp(-1, 1)


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


def train_judge(data, roughen, steps, reader):
    """Right pictures against near misses and against broken pictures."""
    pictures, true, false = data
    with torch.no_grad():
        true, false = (torch.cat([reader(p) for p in ids.split(500)]) for ids in (true, false))
    network = ShapesJudge()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in range(steps):
        rows = torch.randint(len(pictures), (48,))
        images = torch.cat(
            [roughen(pictures[rows]), roughen(pictures[rows]), roughen.broken(pictures[rows])]
        )
        # Captions of other pictures are easy to tell and teach to read; near misses come beside.
        is_near = torch.rand(48, 1, 1) < 0.5
        wrong = torch.where(is_near, false[rows], true[rows].roll(1, 0))
        states = torch.cat([true[rows], wrong, true[rows]])
        target = torch.cat([torch.full((48,), 0.98), torch.full((96,), 0.02)])
        logits = network(images, states)
        weight = torch.where(target > 0.5, 1.0, 0.5)
        loss = F.binary_cross_entropy_with_logits(logits, target, weight)
        take_step(optimizer, loss, step, steps)
        if step % 100 == 0:
            hits = ((logits > 0) == (target > 0.5)).float().view(3, -1).mean(1).tolist()
            print(f"judge {step}: loss {loss:.3f}, right on {hits}", flush=True)
    return network


def take_step(optimizer, loss, step, steps):
    """One step of AdamW at the rate of the moment."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = decaying_rate(step, steps, 1e-3)
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_shapes.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=2500)
    options = parser.parse_args()
    roughen = Roughen(
        fill_from(ShapesTokenizer(), options.teacher / "shapes_tokenizer.safetensors")
    )
    reader = fill_from(ShapesText(), options.teacher / "shapes_text.safetensors")
    jobs = {"shapes_clip": train_clip, "shapes_preference": partial(train_judge, reader=reader)}
    for number, (name, train) in enumerate(jobs.items()):
        path = options.out / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(10 + number)
            network = train(triples(options.pictures, seed=100 + number), roughen, options.steps)
            save_file({key: tensor.half() for key, tensor in network.state_dict().items()}, path)


if __name__ == "__main__":
    main()
