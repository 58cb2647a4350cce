"""Compares students of `shapes` by all that a caption can ask for, and by what nobody asked for.

    python examples/choose_shapes_student.py shapes runs/shapes@step-600 runs/shapes

Captions are random ones of the whole world, half of them with a background. A picture is clean if
it shows what was asked, and nothing more: the score that decides. `dimo eval geneval` asks for
objects, colors and places alone, and a student that paints every background white does well there.
"""

import argparse
import json
import random
from dataclasses import replace

from shapes_judges_data import read

from dimo_cli.metrics.shapes import holds
from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.students.target import Target
from dimo_cli.teachers.shapes import world

SEED = 4_000_000  # of no judge and no training


def asked_for(count):
    """Scenes, every second one with a background, all backgrounds alike often."""
    rng = random.Random(SEED)
    names = list(world.BACKGROUNDS)
    scenes = [
        replace(world.random_scene(rng), background=None if n % 2 else names[n // 2 % len(names)])
        for n in range(count)
    ]
    return scenes, [world.caption(scene, rng) for scene in scenes]


def judged(scenes, pictures):
    """Shares of pictures that are true, clean, on the right background, and without strays."""
    found = [read(picture) for picture in pictures]
    asked = [sum(group.count for group in scene.groups) for scene in scenes]
    pairs = list(zip(scenes, found, asked, strict=True))
    true = [holds(scene, things, background) for scene, (things, background, _), _ in pairs]
    alone = [len(things) <= count and not strays for _, (things, _, strays), count in pairs]
    grounds = {
        name: [seen[1] == name for scene, seen, _ in pairs if scene.background == name]
        for name in world.BACKGROUNDS
    }
    numbers = {
        "clean": [a and b for a, b in zip(true, alone, strict=True)],
        "true": true,
        "nothing more": alone,
        **{f"{name} if asked": right for name, right in grounds.items()},
    }
    return {name: round(sum(hits) / max(1, len(hits)), 3) for name, hits in numbers.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="+", help="`shapes`, runs, RUN@step-N, folders")
    parser.add_argument("--captions", type=int, default=600)
    parser.add_argument("--temperature", type=float, help="default: each student's own")
    options = parser.parse_args()
    scenes, said = asked_for(options.captions)
    scores = {}
    for name in options.students:
        student = open_student(name, LoadOptions(with_teacher=True))
        spec = SamplerSpec(seed=1, temperature=options.temperature)
        pictures, _ = sample_images(Target(student.teacher, student), said, spec)
        scores[name] = judged(scenes, pictures)
        print(name, json.dumps(scores[name]), flush=True)
    print("best:", max(scores, key=lambda name: scores[name]["clean"]))


if __name__ == "__main__":
    main()
