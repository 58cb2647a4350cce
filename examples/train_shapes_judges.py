"""Trains `shapes_preference` and the judge that watches it, `shapes_witness`.

    python examples/shapes_judges_data.py --out runs/judges/data
    python examples/train_shapes_judges.py --data runs/judges/data --out runs/judges

The two see other scenes, other draws and are other networks. Stopped and started again with the
same --out, it goes on from its last checkpoint. `--device cuda` trains in minutes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from shapes_judges_data import FOUR
from train_shapes import as_images, decaying_rate

from dimo_cli.rewards.shapes import ShapesJudge, ShapesWitness
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import ShapesText
from dimo_cli.teachers.small import fill_from

JUDGES = {"shapes_preference": ShapesJudge, "shapes_witness": ShapesWitness}
ROLES = {"shapes_preference": "trained", "shapes_witness": "watching"}
MIX = {"rendered": 5, "student": 14, "soft": 9, "teacher": 4, "climbed": 8}  # captions of a batch
THINGS = 37  # nothing, or a shape of a color and a size
SECONDS = 120  # between two checkpoints
RATE, MEMORY = 2e-3, 0.999


class Shelf:
    """All pictures of a role and a kind that are on disk."""

    def __init__(self, folder, role, kind, most=None):
        files = sorted(folder.glob(f"{role.replace(' ', '-')}-{kind}-*.npz"))
        parts = [dict(np.load(file)) for file in files[:most]]
        self.parts = len(parts)
        if parts:
            self.rows = {
                name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
                for name in parts[0]
            }

    def __len__(self):
        return len(self.rows["words"]) if self.parts else 0

    def take(self, rows, device):
        """Some captions with their pictures and all that is known of them."""
        return {name: tensor[rows].to(device) for name, tensor in self.rows.items()}


class Trained(torch.nn.Module):
    """A judge, and what it has to tell of a picture beside its verdict while it learns."""

    def __init__(self, name, device):
        super().__init__()
        self.network = JUDGES[name]()
        with torch.no_grad():
            width = self.network.look(torch.zeros(1, 3, 32, 32)).shape[1]
        self.cells = torch.nn.Conv2d(width, THINGS, 1)
        self.background = torch.nn.Linear(width, 3)
        self.to(device)
        builtin = Path(builtin_path(""))
        reader = fill_from(ShapesText(), builtin / "shapes_text.safetensors").to(device)
        self.reader = [reader]  # in a list: its weights are no part of the judge

    def read(self, words):
        """What the judge makes of captions."""
        if isinstance(self.network, ShapesWitness):
            return self.network.read(words.long())
        with torch.no_grad():
            return self.reader[0](words.long())

    def losses(self, batch, noise):
        """Verdicts on both captions, order within a caption, and what is where."""
        batch = mirrored(batch)
        pictures = as_images(batch["pictures"].flatten(0, 1))
        strength = noise * torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
        pictures = pictures + strength * torch.randn_like(pictures)
        features = self.network.look(pictures.contiguous(memory_format=torch.channels_last))
        own = self.read(batch["words"]).repeat_interleave(FOUR, 0)
        other = self.read(batch["other_words"].flatten(0, 1))
        both = torch.cat([features, features])
        logits = self.network.judge(both, torch.cat([own, other])).float()
        target = torch.cat([batch["worth"].flatten(), batch["other_worth"].flatten()])
        verdict = F.binary_cross_entropy_with_logits(logits, 0.01 + 0.98 * target)
        known = batch["known"].repeat_interleave(FOUR)
        where = batch["cells"].flatten(0, 1).long()
        cells = F.cross_entropy(self.cells(features[known]).float(), where[known], reduction="sum")
        background = F.cross_entropy(
            self.background(features.mean((2, 3))).float(), batch["background"].flatten().long()
        )
        order = out_of_order(logits[: len(pictures)].view(-1, FOUR), batch["worth"])
        seen = 0.1 * cells / known.sum().clamp(min=1) + 0.1 * background
        return verdict + 0.3 * order + seen, {"verdict": verdict, "order": order, "seen": seen}


def mirrored(batch):
    """Half of the captions with left and right exchanged, in words and pictures alike.

    What is true stays true: shapes are symmetric, and only left and right tell sides.
    """
    flipped = torch.rand(len(batch["words"]), device=batch["words"].device) < 0.5
    left, right = (world.vocabulary().index(side) for side in ("left", "right"))
    batch = dict(batch)
    for name in ("words", "other_words"):
        words = batch[name][flipped]
        swapped = torch.where(words == left, right, torch.where(words == right, left, words))
        batch[name] = batch[name].index_put((flipped,), swapped.to(words.dtype))
    batch["pictures"] = batch["pictures"].index_put((flipped,), batch["pictures"][flipped].flip(3))
    # An object in the middle is in the cell that begins there, so cells are not exactly mirrored.
    batch["known"] = ~flipped
    return batch


def out_of_order(logits, worth):
    """The pairwise ranking loss of the pictures [B, 4] of each caption."""
    better = worth[:, :, None] > worth[:, None, :]
    losses = F.softplus(logits[:, None, :] - logits[:, :, None])
    return (losses * better).sum() / better.sum().clamp(min=1)


@torch.no_grad()
def scores_of(judge, shelf, device, most):
    """Scores and worth [N, 4] of the first captions of a shelf."""
    found = []
    for first in range(0, min(most, len(shelf)), 128):
        batch = shelf.take(slice(first, min(first + 128, most)), device)
        images = as_images(batch["pictures"].flatten(0, 1))
        said = judge.read(batch["words"]).repeat_interleave(FOUR, 0)
        found.append(judge.network(images, said).float().view(-1, FOUR).cpu())
    return torch.cat(found), shelf.rows["worth"][:most]


def within_prompt_auc(scores, truth):
    """The share of pairs of a true and a false picture of one prompt that are told apart.

    The mean over all prompts [N] that have both; scores and truth are [N, M].
    """
    pairs = truth[:, :, None] & ~truth[:, None, :]
    ahead = scores[:, :, None] - scores[:, None, :]
    right = ((ahead > 0).float() + 0.5 * (ahead == 0).float()) * pairs
    has_both = pairs.sum((1, 2)) > 0
    return (right.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1))[has_both].mean().item()


def examine(judge, shelves, device, most=400):
    """The AUC of each kind of picture."""
    found = {}
    for kind, shelf in shelves.items():
        scores, worth = scores_of(judge, shelf, device, most)
        found[kind] = round(within_prompt_auc(scores, worth > 0), 4)
    return found


def train(name, options):
    """All steps, from the last checkpoint; the mean of the last weights is the judge."""
    torch.manual_seed(list(JUDGES).index(name))
    device = torch.device(options.device)
    judge, mean = Trained(name, device), Trained(name, device)
    judge.to(memory_format=torch.channels_last)
    mean.load_state_dict(judge.state_dict())
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.2)
    step, path = 0, options.out / f"{name}.checkpoint"
    if path.exists():
        kept = torch.load(path, map_location=device, weights_only=True)
        judge.load_state_dict(kept["judge"])
        mean.load_state_dict(kept["mean"])
        optimizer.load_state_dict(kept["optimizer"])
        step = kept["step"]
    elif options.start:
        weights = torch.load(options.start, map_location=device, weights_only=True)["mean"]
        judge.load_state_dict(weights)
        mean.load_state_dict(weights)
    tests = {kind: Shelf(options.data, "held out", kind, 1) for kind in MIX}
    tests = {kind: shelf for kind, shelf in tests.items() if len(shelf)}
    shelves, last = stocked(name, options), time.monotonic()
    while step < options.steps:
        torch.manual_seed(1000 + step)
        if step % 1000 == 999:
            shelves = stocked(name, options)
        batch = drawn(shelves, device, options.batch)
        with torch.autocast(device.type, torch.bfloat16):
            loss, parts = judge.losses(batch, noise=0.08)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, options.steps, options.rate)
        optimizer.step()
        step += 1
        keep = min(MEMORY, step / (step + 10))
        for kept, new in zip(mean.parameters(), judge.parameters(), strict=True):
            kept.data.lerp_(new.data, 1 - keep)
        if step % options.look == 0 or step == options.steps:
            told = {part: round(value.item(), 4) for part, value in parts.items()}
            line = {"step": step, **told, "auc": examine(mean, tests, device)}
            print(json.dumps(line), flush=True)
            with (options.out / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if time.monotonic() - last > SECONDS or step == options.steps:
            state = {"judge": judge.state_dict(), "mean": mean.state_dict(), "step": step}
            torch.save({**state, "optimizer": optimizer.state_dict()}, path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
            last = time.monotonic()
    weights = {
        key: tensor.half().contiguous().cpu() for key, tensor in mean.network.state_dict().items()
    }
    save_file(weights, options.out / f"{name}.safetensors")


def stocked(name, options):
    """Everything that is there to learn from by now."""
    shelves = {kind: Shelf(options.data, ROLES[name], kind) for kind in MIX}
    return {kind: shelf for kind, shelf in shelves.items() if len(shelf)}


def drawn(shelves, device, size):
    """A batch of captions of all kinds."""
    whole = sum(MIX[kind] for kind in shelves)
    parts = []
    for kind, shelf in shelves.items():
        rows = torch.randint(len(shelf), (max(1, round(size * MIX[kind] / whole)),))
        parts.append(shelf.take(rows, device))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judge", choices=JUDGES, nargs="+", default=list(JUDGES))
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32, help="captions, with four pictures each")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--look", type=int, default=500, help="steps between two examinations")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start", type=Path, help="a checkpoint whose judge is trained on")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.judge:
        train(name, options)


if __name__ == "__main__":
    main()
