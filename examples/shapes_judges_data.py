"""Pictures for the judges of `shapes`: rendered, broken, soft and sampled, each with its truth.

    python examples/shapes_judges_data.py --out runs/judges/data          (an hour on 2 CPU cores)

A part is a few thousand groups of four pictures that are to be of one caption. Every scene belongs
to one of three roles by its digest, so that the judges that are trained and the watching one share
no scene, and neither sees one that it is tested on.
"""

import argparse
import hashlib
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label
from train_shapes import as_images

from dimo_cli.engine.one_step import student_hidden, student_input
from dimo_cli.metrics.shapes import SMALLEST_AREA, distance, holds, read_picture
from dimo_cli.sampling.samplers import sample_images, to_pixels
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.students.target import Target
from dimo_cli.teachers.shapes import world
from dimo_cli.teachers.shapes.network import words_to_ids

ROLES = {"trained": range(40), "watching": range(40, 80), "held out": range(80, 100)}
SEEDS = {"trained": 1_000_000, "watching": 2_000_000, "held out": 3_000_000}
FOUR = 4  # pictures of a caption
AT_ONCE = 64  # captions
CELL = 4  # pixels of a side: the picture is read as 8 x 8 cells
STRAY = 0.7  # what a picture is worth that is true and shows more than was asked
TEACHER_STEPS = (1, 1, 2, 2, 3, 4, 4, 8, 16)
SOFTNESS = (0.5, 1.0, 1.0, 2.0)  # temperatures of soft pictures


def role_of(scene):
    """Whose scene it is."""
    digest = int(hashlib.sha256(repr(scene).encode()).hexdigest(), 16) % 100
    return next(role for role, digests in ROLES.items() if digest in digests)


def scenes_of(role, count, rng):
    """Random scenes of one role."""
    found = []
    while len(found) < count:
        scene = world.random_scene(rng)
        if role_of(scene) == role:
            found.append(scene)
    return found


def worth(scene, things, background, strays=0):
    """1 for the truth and nothing else, less with objects that nobody asked for, 0 if false."""
    if not holds(scene, things, background):
        return 0.0
    asked = sum(group.count for group in scene.groups)
    return STRAY if strays or len(things) > asked else 1.0


def read(picture):
    """Objects, background, and the number of areas that are no object."""
    things, background = read_picture(picture)
    to_colors = np.stack([distance(picture, color) for color in world.COLORS.values()]).min(0)
    areas, count = label(to_colors < distance(picture, world.BACKGROUNDS[background]))
    sizes = np.bincount(areas.ravel(), minlength=count + 1)[1:]
    return things, background, int((sizes >= SMALLEST_AREA).sum()) - len(things)


def told(things, background, rng):
    """A scene that says what is on a picture, if one can."""
    groups = {}
    for thing in things:
        groups.setdefault((thing.shape, thing.color), []).append(thing)
    fitting = [key for key, members in groups.items() if len(members) <= world.MOST]
    if not fitting:
        return None
    picked = rng.sample(fitting, min(len(fitting), rng.choice((1, 2, 2))))
    said = tuple(
        world.Group(shape, len(groups[shape, color]), color if rng.random() < 0.7 else None)
        for shape, color in picked
    )
    if len(said) == 2 and not world.are_told_apart(*said):
        return None
    relation = rng.choice([*world.RELATION_WORDS, None]) if len(said) == 2 else None
    return world.Scene(said, relation, rng.choice([background, None, None]))


def other_caption(scene, things, background, rng):
    """Another scene to hold the picture against: near to what was asked, or to what is there."""
    other = told(things, background, rng) if rng.random() < 0.6 else scene
    other = other or scene
    if other is scene or rng.random() < 0.4:
        other = world.near_miss(other, rng)
    return other


def cells(things):
    """Which cell holds the middle of what: [8, 8], 0 for nothing."""
    grid = np.zeros((world.SIDE // CELL, world.SIDE // CELL), np.uint8)
    for thing in things:
        shape, color = world.SHAPES.index(thing.shape), list(world.COLORS).index(thing.color)
        number = (shape * len(world.COLORS) + color) * 2 + list(world.SIZES).index(thing.size)
        row, column = min(thing.y // CELL, len(grid) - 1), min(thing.x // CELL, len(grid) - 1)
        grid[row, column] = 1 + number
    return grid


def collect(scenes, pictures, rng, known=None):
    """A part: pictures [N, 4, ...] of scenes, both captions of each, and what they are worth."""
    said = [world.caption(scene, rng) for scene in scenes] if known is None else known
    rows = {name: [] for name in ("other", "worth", "other_worth", "cells", "background")}
    for scene, four in zip(scenes, pictures, strict=True):
        for picture in four:
            things, background, strays = read(picture)
            other = other_caption(scene, things, background, rng)
            rows["other"].append(world.caption(other, rng))
            rows["worth"].append(worth(scene, things, background, strays))
            rows["other_worth"].append(worth(other, things, background, strays))
            rows["cells"].append(cells(things))
            rows["background"].append(list(world.BACKGROUNDS).index(background))
    count = len(scenes)
    return {
        "pictures": np.asarray(pictures, np.uint8),
        "words": words_to_ids(said).numpy().astype(np.uint8),
        "other_words": words_to_ids(rows["other"])
        .numpy()
        .astype(np.uint8)
        .reshape(count, FOUR, -1),
        "worth": np.array(rows["worth"], np.float32).reshape(count, FOUR),
        "other_worth": np.array(rows["other_worth"], np.float32).reshape(count, FOUR),
        "cells": np.stack(rows["cells"]).reshape(count, FOUR, 8, 8),
        "background": np.array(rows["background"], np.uint8).reshape(count, FOUR),
    }


def by_student(scenes, rng, seed, soft):
    """Four pictures of the student in the package for each scene, of drawn or of soft codes."""
    student = open_student("shapes", LoadOptions(with_teacher=True))
    said = [world.caption(scene, rng) for scene in scenes]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for first in range(0, len(said), AT_ONCE):
        captions = [line for line in said[first : first + AT_ONCE] for _ in range(FOUR)]
        images = student_images(student, captions, generator, rng, soft)
        found.append(to_pixels(images).reshape(-1, FOUR, world.SIDE, world.SIDE, 3))
    return said, np.concatenate(found)


@torch.inference_mode()
def student_images(student, captions, generator, rng, soft):
    """Images of one pass at a temperature of its own for all of them."""
    teacher, init = student.teacher, student.manifest.init
    cond = teacher.conditioner.prompts(captions)
    tokens = student_input(teacher.space, teacher.tokenizer, init, len(cond), generator)
    hidden = student_hidden(student.backbone, tokens, cond, init.embed_noise.sigma, generator)
    logits = student.backbone.head(hidden).float()
    if soft:
        return teacher.tokenizer.decode_probs((logits / rng.choice(SOFTNESS)).softmax(-1), cond)
    probs = (logits / rng.choice((0.3, 0.7, 1.0, 1.0))).softmax(-1)
    drawn = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
    return teacher.tokenizer.decode(drawn.view(logits.shape[:-1]), cond)


def by_teacher(scenes, rng, seed):
    """Four pictures of the teacher for each scene, in one step to sixteen."""
    target = Target(open_student("shapes", LoadOptions(with_teacher=True)).teacher)
    said = [world.caption(scene, rng) for scene in scenes]
    captions = [line for line in said for _ in range(FOUR)]
    drawn = np.empty((len(captions), world.SIDE, world.SIDE, 3), np.uint8)
    # Pictures of one caption are of different steps, so that some of them are true.
    for number, steps in enumerate(TEACHER_STEPS):
        every = slice(number, None, len(TEACHER_STEPS))
        spec = SamplerSpec(teacher=True, steps=steps, seed=seed + number)
        drawn[every], _ = sample_images(target, captions[every], spec)
    return said, drawn.reshape(-1, FOUR, world.SIDE, world.SIDE, 3)


def rendered(scenes, rng, seed):
    """The truth, two near misses, and something broken, soft or noisy."""
    tokenizer = open_student("shapes", LoadOptions(with_teacher=True)).teacher.tokenizer
    generator = torch.Generator().manual_seed(seed)
    pictures = np.stack(
        [[picture_of(kind, scene, rng) for kind in range(FOUR)] for scene in scenes]
    )
    flat = pictures.reshape(-1, world.SIDE, world.SIDE, 3)
    for first in range(0, len(flat), 1024):
        part = flat[first : first + 1024]
        part[:] = roughened(tokenizer, torch.from_numpy(part.copy()), generator)
    return None, pictures


def picture_of(kind, scene, rng):
    """The picture of a scene, or one that misses it by one thing."""
    things, background = world.compose(scene, rng)
    if kind == 1:
        return world.render(*world.compose(world.near_miss(scene, rng), rng))
    if kind == 2:
        return world.render(changed(things, rng), background)
    return world.render(things, background)


def changed(things, rng):
    """Objects of which one is gone, of another color, shape or size, or one too many."""
    things, at = list(things), rng.randrange(len(things))
    how = rng.randrange(5)
    if how == 0 and len(things) > 1:
        del things[at]
    elif how == 1:
        things[at] = replace(things[at], color=rng.choice(list(world.COLORS)))
    elif how == 2:
        things[at] = replace(things[at], shape=rng.choice(world.SHAPES))
    elif how == 3 and len(things) > 1:
        first, second = rng.sample(range(len(things)), 2)
        colors = things[first].color, things[second].color
        things[first] = replace(things[first], color=colors[1])
        things[second] = replace(things[second], color=colors[0])
    else:
        things.append(stray(things, rng))
    return things


def stray(things, rng):
    """A small object where there is room, like one that is there or like none."""
    look = rng.choice(things) if rng.random() < 0.5 else None
    for _ in range(50):
        x, y = rng.randrange(4, 28), rng.randrange(4, 28)
        room = all(
            max(abs(x - thing.x), abs(y - thing.y)) > world.SIZES[thing.size] + 4
            for thing in things
        )
        if room:
            break
    shape = look.shape if look else rng.choice(world.SHAPES)
    color = look.color if look else rng.choice(list(world.COLORS))
    return world.Thing(shape, color, "small", x, y)


@torch.inference_mode()
def roughened(tokenizer, pictures, generator):
    """The last of each four broken, mixed or soft; half of the others through the tokenizer."""
    images = as_images(pictures)
    codes = tokenizer.encode(images)
    vectors = tokenizer.codebook(codes.squeeze(-1))
    count = len(images)
    way = torch.randint(0, 6, (count,), generator=generator)
    last = torch.arange(count) % FOUR == FOUR - 1
    others = vectors.roll(FOUR, 0)  # the same place in the next group
    share = 0.02 + 0.3 * torch.rand(count, 1, generator=generator)
    swapped = (torch.rand(count, vectors.shape[1], generator=generator) < share)[..., None]
    broken = torch.where(swapped, others, vectors)
    mixed = torch.lerp(vectors, others, torch.rand(count, 1, 1, generator=generator))
    patchy = torch.lerp(vectors, broken, torch.rand(count, 1, 1, generator=generator))
    noise = torch.randn(vectors.shape, generator=generator)
    noisy = vectors + 0.5 * torch.rand(count, 1, 1, generator=generator) * noise
    by_way = torch.stack([broken, mixed, patchy, noisy, broken, patchy])
    bad = by_way[way, torch.arange(count)]
    painted = tokenizer.paint(torch.where(last[:, None, None], bad, vectors)).clamp(-1, 1)
    kept = (~last & (way < 3))[:, None, None, None]
    return to_pixels(torch.where(kept, images, painted))


KINDS = {
    "rendered": (rendered, 2000),
    "student": (partial(by_student, soft=False), 1500),
    "soft": (partial(by_student, soft=True), 1000),
    "teacher": (by_teacher, 500),
}


def draw(role, kind, part, count=None):
    """One part, always the same for its names."""
    make, usual = KINDS[kind]
    seed = SEEDS[role] + 10_000 * list(KINDS).index(kind) + 20 * part
    rng = random.Random(seed)
    scenes = scenes_of(role, count or usual, rng)
    said, pictures = make(scenes, rng, seed)
    return collect(scenes, pictures, rng, said)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--role", choices=ROLES, nargs="+", default=list(ROLES))
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--parts", type=int, nargs=2, default=(0, 6), help="from, and before which")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for part in range(*options.parts):
        for role in options.role:
            for kind in options.kind:
                path = options.out / f"{role.replace(' ', '-')}-{kind}-{part}.npz"
                if path.exists():
                    continue
                found = draw(role, kind, part)
                unfinished = path.with_suffix(".part")
                with unfinished.open("wb") as file:
                    np.savez(file, **found)
                unfinished.rename(path)
                true = (found["worth"] > 0).mean(0)
                print(f"{path.name}: true {np.round(true, 2)}", flush=True)


if __name__ == "__main__":
    main()
