"""Examines the embedded judges of `shapes` on scenes and pictures that no judge was trained on.

    python examples/examine_shapes_judges.py --data runs/judges/data --out judges.json

For each of 150 held-out captions: rendered truth, near misses, broken and mixed pictures, pictures
that the student in the package draws at temperature 1 and decodes softly, and the teacher's in one
step to sixteen. The AUC is within a caption: how often a true picture scores above a false one of
the same words. What is true says the verifier; `strict` also calls pictures false that show more
than was asked. The pictures are kept in --data and drawn once.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from shapes_judges_data import FOUR, SEEDS, rendered, scenes_of, student_images, worth
from shapes_judges_data import read as read_picture
from train_shapes import as_images
from train_shapes_judges import within_prompt_auc

from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.rewards.registry import load_reward
from dimo_cli.sampling.samplers import sample_images, to_pixels
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.students.target import Target
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.shapes import world

PROMPTS, SEED = 150, SEEDS["held out"] + 900_000
STUDENT, SOFT, TEACHER, RENDERED = 16, 8, 4, 8  # pictures of a caption
TEACHER_STEPS = (1, 2, 4, 8, 16)
REWARDS = ("shapes_clip", "shapes_preference", "shapes_witness")
DRAWS = 2000


def drawn():
    """Captions, pictures [N, M, 32, 32, 3] by source, and what each is worth."""
    rng = random.Random(SEED)
    scenes = scenes_of("held out", PROMPTS, rng)
    said = [world.caption(scene, rng) for scene in scenes]
    pictures = {"rendered": pictures_rendered(scenes, rng)}
    pictures |= pictures_of_student(said)
    teacher = Target(open_student("shapes", LoadOptions(with_teacher=True)).teacher)
    for steps in TEACHER_STEPS:
        spec = SamplerSpec(teacher=True, steps=steps, seed=SEED % 2**31)
        found, _ = sample_images(teacher, [line for line in said for _ in range(TEACHER)], spec)
        pictures[f"teacher, {steps} steps"] = in_rows(found)
    worths = {
        name: np.array(
            [
                [worth(scene, *read_picture(picture)) for picture in row]
                for scene, row in zip(scenes, rows, strict=True)
            ],
            np.float32,
        )
        for name, rows in pictures.items()
    }
    return said, pictures, worths


def in_rows(pictures):
    """Pictures one after the other as those of each caption."""
    return np.asarray(pictures).reshape(PROMPTS, -1, world.SIDE, world.SIDE, 3)


def pictures_rendered(scenes, rng):
    """Two draws of the four kinds of rendered pictures."""
    parts = [rendered(scenes, rng, SEED + number)[1] for number in range(RENDERED // FOUR)]
    return np.concatenate(parts, axis=1)


def pictures_of_student(said):
    """Of drawn codes and of soft ones, at temperature 1."""
    student = open_student("shapes", LoadOptions(with_teacher=True))
    generator = torch.Generator().manual_seed(SEED)

    class Always:
        """A source that takes the temperature 1."""

        def choice(self, options):
            return 1.0

    found = {}
    for name, count, soft in (("student", STUDENT, False), ("soft", SOFT, True)):
        captions = [line for line in said for _ in range(count)]
        parts = [
            to_pixels(student_images(student, captions[i : i + 400], generator, Always(), soft))
            for i in range(0, len(captions), 400)
        ]
        found[name] = in_rows(np.concatenate(parts))
    return found


@torch.inference_mode()
def scores_of(name, said, pictures):
    """A reward's scores [N, M] by source."""
    reward, found = load_reward(name, HubStore()), {}
    for source, rows in pictures.items():
        flat, each = rows.reshape(-1, *rows.shape[2:]), rows.shape[1]
        lines = [line for line in said for _ in range(each)]
        parts = [
            reward(
                as_images(torch.from_numpy(flat[i : i + 300])), reward.prepare(lines[i : i + 300])
            )
            for i in range(0, len(flat), 300)
        ]
        found[source] = torch.cat(parts).view(PROMPTS, each)
    return found


def with_interval(scores, truth):
    """The AUC and its 95 % interval over captions."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(scores), (DRAWS // 10, len(scores)), generator=generator)
    again = [within_prompt_auc(scores[row], truth[row]) for row in rows]
    low, high = np.percentile(again, (2.5, 97.5))
    value = within_prompt_auc(scores, truth)
    return {"auc": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    kept = options.data / "examination.npz"
    if not kept.exists():
        said, pictures, worths = drawn()
        numbered = {f"worth {name}": part for name, part in worths.items()}
        np.savez(kept, said=np.array(said), **pictures, **numbered)
    with np.load(kept) as file:
        said = file["said"].tolist()
        names = [name for name in file.files if name != "said" and not name.startswith("worth ")]
        pictures = {name: file[name] for name in names}
        worths = {name: torch.from_numpy(file[f"worth {name}"]) for name in names}
    found = {}
    for name in REWARDS:
        scores = scores_of(name, said, pictures)
        together = torch.cat(list(scores.values()), 1), torch.cat(list(worths.values()), 1)
        parts = {source: (scores[source], worths[source]) for source in scores}
        found[name] = {
            source: {
                "verifier": with_interval(marks, value > 0),
                "strict": with_interval(marks, value == 1),
            }
            for source, (marks, value) in {"all": together, **parts}.items()
        }
        told = {source: value["verifier"]["auc"] for source, value in found[name].items()}
        print(name, json.dumps(told), flush=True)
    document = {
        "command": f"python {' '.join(sys.argv)}",
        "captions": len(said),
        "weights": {
            name: file_sha256(Path(builtin_path(f"{name}.safetensors"))) for name in REWARDS
        },
        "true": {name: round(float((part > 0).float().mean()), 4) for name, part in worths.items()},
        "judges": found,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
