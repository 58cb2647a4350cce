"""Trains the feature network of `shapes`, and takes the statistics of real pictures with it.

    python examples/train_shapes_features.py --out runs/shapes-features     (minutes on one core)

It learns to read a picture: how many objects there are of each shape and color, and on which
background. What it needs for that, its last hidden layer, is what distances are measured in.
"""

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dimo_cli.metrics.frechet import RunningGaussian
from dimo_cli.metrics.networks import ShapesFeatures
from dimo_cli.metrics.references import SHAPES_SEED
from dimo_cli.teachers.shapes.world import (
    BACKGROUNDS,
    COLORS,
    MOST,
    SHAPES,
    compose,
    random_scene,
    render,
)

KINDS = [(shape, color) for shape in SHAPES for color in COLORS]


def draw(count, seed):
    """Pictures [N, 3, 32, 32] (bytes), objects of each kind [N, 18], and backgrounds [N]."""
    rng, pictures, counts, grounds = random.Random(seed), [], [], []
    for _ in range(count):
        things, background = compose(random_scene(rng), rng)
        pictures.append(torch.from_numpy(render(things, background)).permute(2, 0, 1))
        row = [0] * len(KINDS)
        for thing in things:
            row[KINDS.index((thing.shape, thing.color))] += 1
        counts.append(row)
        grounds.append(list(BACKGROUNDS).index(background))
    return torch.stack(pictures), torch.tensor(counts), torch.tensor(grounds)


def answers(network, heads, pictures):
    """Features, logits of kinds, of the number of each kind, and of backgrounds."""
    features, kinds = network(pictures.float() / 127.5 - 1)
    numbers = heads[0](features).unflatten(1, (len(KINDS), MOST + 1))
    return features, kinds, numbers, heads[1](features)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--pictures", type=int, default=60_000)
parser.add_argument("--steps", type=int, default=6000)
parser.add_argument("--real", type=int, default=10_000, help="pictures of the reference")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
network = ShapesFeatures()
numbers_head = torch.nn.Linear(network.dimensions, len(KINDS) * (MOST + 1))
heads = torch.nn.ModuleList([numbers_head, torch.nn.Linear(network.dimensions, len(BACKGROUNDS))])
optimizer = torch.optim.AdamW([*network.parameters(), *heads.parameters()], weight_decay=0.01)
pictures, counts, grounds = draw(args.pictures, seed=0)
generator = torch.Generator().manual_seed(0)
for step in range(args.steps):
    rows = torch.randint(len(pictures), (128,), generator=generator)
    _, kinds, numbers, ground = answers(network, heads, pictures[rows])
    share = counts[rows] / counts[rows].sum(1, keepdim=True)
    loss = F.cross_entropy(kinds, share) + F.cross_entropy(ground, grounds[rows])
    loss = loss + len(KINDS) * F.cross_entropy(numbers.flatten(0, 1), counts[rows].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / args.steps))
    optimizer.step()
    if step % 100 == 0:
        read = (numbers.argmax(-1) == counts[rows]).all(1).float().mean()
        print(f"{step}: loss {loss:.4f}, {read:.1%} of pictures read", flush=True)

half = {name: tensor.half() for name, tensor in network.state_dict().items()}
save_file(half, args.out / "shapes_features.safetensors")
shipped = {name: tensor.float() for name, tensor in half.items()}
network.load_state_dict(shipped)
real, counts, _ = draw(args.real, seed=SHAPES_SEED)
running, right = RunningGaussian(network.dimensions), 0
with torch.inference_mode():
    for part, wanted in zip(real.split(500), counts.split(500), strict=True):
        features, _, numbers, _ = answers(network, heads, part)
        running.add(features)
        right += int((numbers.argmax(-1) == wanted).all(1).sum())
print(f"{right / args.real:.1%} of new pictures read")
stats = running.gaussian()
reference = {"mean": stats.mean, "covariance": stats.covariance, "count": torch.tensor(stats.count)}
save_file(reference, args.out / "shapes_reference.safetensors")
