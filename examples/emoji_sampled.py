"""Pictures that the teacher `emoji` draws, in one step to sixteen, with verdicts by a rule."""

import random

import numpy as np
from emoji_truth_by_rule import Templates

from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.target import Target
from dimo_cli.teachers.emoji import load_from, world
from dimo_cli.teachers.emoji.network import words_to_ids

STEPS = (1, 2, 4, 16)  # the pictures of one caption are of different ones, so that some are true


def sampled(folder, drawings, count, seed, path):
    """So many captions with four pictures each, drawn once: words, pictures, and what is true."""
    if not path.exists():
        rng = random.Random(seed)
        looks = [world.random_look(rng, world.trained_on()) for _ in range(count)]
        scenes = [world.random_scene(look, rng) for look in looks]
        captions = [world.caption(scene, rng) for scene in scenes]
        pictures = drawn_by_teacher(folder, captions, seed)
        flat = pictures.reshape(-1, world.SIDE, world.SIDE, 3)
        asked = [scene for scene in scenes for _ in STEPS]
        true = Templates(drawings).verdicts(asked, flat).reshape(count, len(STEPS))
        words = words_to_ids(captions).numpy()
        np.savez(path, words=words, pictures=pictures, true=true, captions=np.array(captions))
    with np.load(path) as file:
        return dict(file)


def drawn_by_teacher(folder, captions, seed):
    """A picture of every caption in each number of steps: [N, 4, 32, 32, 3]."""
    target = Target(load_from(folder))
    by_steps = [
        sample_images(
            target, captions, SamplerSpec(teacher=True, steps=steps, seed=seed % 2**31 + steps)
        )[0]
        for steps in STEPS
    ]
    return np.stack([np.asarray(part) for part in by_steps], axis=1)
