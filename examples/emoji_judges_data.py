"""Pictures that judges of `emoji` are trained on: drawn ones, and what can be wrong with them."""

import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from emoji_truth_by_rule import FARTHEST
from safetensors.torch import load_file, save_file
from train_emoji import draw_batch

from dimo_cli.metrics.emoji_reader import look_of, numbers_of
from dimo_cli.teachers.emoji import world
from dimo_cli.teachers.emoji.network import words_to_ids

EVERY = [(thing, style) for thing in range(len(world.things())) for style in world.STYLES]
SIDE = world.SIDE
OTHERS = {
    "thing": range(len(world.things())),
    "style": world.STYLES,
    "background": tuple(world.BACKGROUNDS),
    "size": tuple(world.SIZES),
    "place": tuple(world.PLACES),
}


def drawn(drawings, size, seed, pairs=EVERY):
    """Pictures [B, 3, 32, 32] in [-1, 1], and what is true of them [B, 6]."""
    images, looks = draw_batch(drawings, size, random.Random(seed), pairs)
    return images, torch.tensor([numbers_of(look) for look in looks])


class Source:
    """Pictures with what is true of them: half of a batch just drawn, half through the tokenizer.

    Those through the tokenizer are made once and kept, for it is larger than what learns here.
    """

    def __init__(self, drawings, tokenizer, seed, folder, pairs=EVERY, count=4096):
        self.drawings, self.seed, self.pairs = drawings, seed, pairs
        path = folder / f"painted-{seed}.safetensors"
        if not path.exists():
            images, truth = drawn(drawings, count, seed - 1, pairs)
            generator = torch.Generator().manual_seed(seed)
            parts = [painted(tokenizer, part, generator) for part in images.split(256)]
            save_file({"images": torch.cat(parts).half().contiguous(), "truth": truth}, path)
        self.kept = load_file(path)

    def batch(self, size, number):
        """Batch `number`, and the random numbers to go on with."""
        generator = torch.Generator().manual_seed(self.seed + number)
        images, truth = drawn(self.drawings, size // 2, self.seed + number, self.pairs)
        rows = torch.randint(len(self.kept["truth"]), (size - size // 2,), generator=generator)
        images = torch.cat([images, self.kept["images"][rows].float()])
        order = torch.randperm(size, generator=generator)
        return images[order], torch.cat([truth, self.kept["truth"][rows]])[order], generator


@torch.no_grad()
def painted(tokenizer, images, generator):
    """Pictures through the tokenizer, with noise on their codes as soft codes have it."""
    vectors = tokenizer.codebook(tokenizer.encode(images).squeeze(-1))
    strength = 0.3 * torch.rand(len(images), 1, 1, generator=generator) * vectors.std()
    noise = torch.randn(vectors.shape, generator=generator)
    return tokenizer.paint(vectors + strength * noise).clamp(-1, 1)


def some(count, share, generator):
    """A random choice of rows, as a mask that fits pictures."""
    return (torch.rand(count, generator=generator) < share)[:, None, None, None]


def patches(count, share, generator):
    """Random patches of 4x4 pixels of which each picture has that share [B], as a mask."""
    chosen = torch.rand(count, 8, 8, generator=generator) < share[:, None, None]
    return chosen.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]


def halves(count, share, generator):
    """That share [B] of each picture, cut off along a line, as a mask."""
    line = torch.linspace(0, 1, SIDE)
    across = torch.rand(count, generator=generator) < 0.5
    from_end = torch.rand(count, generator=generator) < 0.5
    place = torch.where(from_end[:, None], line.flip(0), line)
    mask = place < share[:, None]
    rows, columns = mask[:, :, None], mask[:, None, :]
    return torch.where(across[:, None, None], rows, columns).expand(-1, SIDE, SIDE)[:, None]


def other_looks(truth, drawings, seed):
    """Pictures of the same things as these [B, 6], but of another style, side, place or background.

    That is what one pass of a small network mixes up.
    """
    rng, pictures = random.Random(seed), []
    for row in truth.tolist():
        look = look_of(row)
        other = world.random_look(rng, [(look.thing, style) for style in world.STYLES])
        kept = {name: getattr(look, name) for name in OTHERS if rng.random() < 0.6}
        pictures.append(world.compose(replace(other, **kept), drawings))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def damaged(images, others, generator):
    """Pictures with up to six tenths of others, and how whole each still is: 0 to 1 [B].

    What is far from its drawing is not, by the rule of `emoji_truth_by_rule.py`.
    """
    share = 0.6 * torch.rand(len(images), generator=generator)
    both = blended(images, others, share, generator)
    far = F.avg_pool2d(both - images, 2).square().mean((1, 2, 3))
    return both, ((FARTHEST + 0.005 - far) / 0.01).clamp(0, 1)


def roughened(images, generator):
    """Pictures with noise, some soft, and some with a few patches of another."""
    share = 0.2 * torch.rand(len(images), generator=generator)
    strange = some(len(images), 0.4, generator) & patches(len(images), share, generator)
    return noisy(torch.where(strange, images.roll(1, 0), images), generator)


def noisy(images, generator):
    """Pictures with noise, and some soft."""
    soft = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    images = torch.where(some(len(images), 0.2, generator), (images + soft) / 2, images)
    strength = 0.12 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return images + strength * torch.randn(images.shape, generator=generator)


def blended(images, others, share, generator):
    """Pictures of which that share [B] is of others: patches, a side of them, or faintly."""
    count = len(images)
    way = torch.randint(0, 3, (count, 1, 1, 1), generator=generator)
    by_patches = torch.where(patches(count, share, generator), others, images)
    by_side = torch.where(halves(count, share, generator), others, images)
    faintly = torch.lerp(images, others, share[:, None, None, None])
    return torch.where(way == 0, by_patches, torch.where(way == 1, by_side, faintly))


def near_miss(scene, rng):
    """A scene that says the same but for one fact, which is false of a picture of the first."""
    said = [name for name in OTHERS if getattr(scene, name) is not None]
    name = rng.choice(said)
    others = [value for value in OTHERS[name] if value != getattr(scene, name)]
    return replace(scene, **{name: rng.choice(others)})


def said_of(truth, seed):
    """For pictures with these facts [B, 6]: captions that are true, and near misses, as words."""
    rng = random.Random(seed)
    scenes = [world.random_scene(look_of(row), rng) for row in truth.tolist()]
    true = [world.caption(scene, rng) for scene in scenes]
    false = [world.caption(near_miss(scene, rng), rng) for scene in scenes]
    return words_to_ids(true), words_to_ids(false)
