"""Adversarial refinement on digits: 1,400 images to train on, 397 that only judge."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.soft_dimo.measuring import SEEDS, refined
from benchmarks.soft_dimo.trials import Trial
from dimo_cli import __version__
from dimo_cli.data.shards import INDEX, shard_path, write_json, write_shard
from dimo_cli.evaluation.evaluate import evaluate
from dimo_cli.files.png import save_png
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.sampling.samplers import to_pixels
from dimo_cli.specs.data import DatasetIndex, Recipe, ShardEntry
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.teachers.digits import load_teacher, training_tokens

TRAINED_ON, SPLIT_SEED, IMAGES = 1400, 0, 5000
SAMPLED = 20_000  # the first seed of images that are measured, as `dimo eval` has it
STEPS = 1200
START = "digits"  # the student that ships, from which all arms start
FILES = ("digits.safetensors", "digits_data.safetensors", "digits_features.safetensors")
READ = (*FILES, "digits-student/model.safetensors")
WATCHED = (
    "monitor.fid_every=100",
    "monitor.table_samples=0",
    "monitor.preview_every=100000",
    "train.log_every=50",
)
ARMS: dict[str, tuple[str, ...]] = {
    "control": ("gan.enabled=false",),
    "soft": (),
    "gumbel": ("relax.kind=gumbel_st",),
    "gan-alone": ("distill_weight=0", "gan.weight=100"),
    "mask-0": ("gan.mask_high=0",),
    "mask-0.5": ("gan.mask_high=0.5",),
    "start-0": ("gan.start=0",),
    "sharpened": ("gan.enabled=false", "loss.entropy_bonus=-0.5"),
}
"""The fair control is the same training with the GAN off. `sharpened` has an entropy penalty
instead: what the GAN gives beyond mere sharpening is to be seen."""
FIRST, WITH_ALL_SEEDS = ("control", "soft"), ("gumbel", "gan-alone")


def trials() -> list[Trial]:
    """What decides the first claim, the start, the other claims of all seeds, and the rest."""
    found = [by_arm(name, seed) for seed in SEEDS for name in FIRST]
    for seed in SEEDS:
        settings = {"start": START, "seed": seed, "images": IMAGES}
        found.append(Trial("gan", f"before-{seed}", settings, partial(before, seed), READ))
    found += [by_arm(name, seed) for seed in SEEDS for name in WITH_ALL_SEEDS]
    others = [name for name in ARMS if name not in (*FIRST, *WITH_ALL_SEEDS)]
    return found + [by_arm(name, SEEDS[0]) for name in others]


def by_arm(name: str, seed: int) -> Trial:
    """The trial of an arm; the seed is that of the training and of the images."""
    sets = ARMS[name]
    settings = {
        "start": START,
        "sets": list(sets),
        "seed": seed,
        "steps": STEPS,
        "images": IMAGES,
    }
    return Trial("gan", f"{name}-{seed}", settings, partial(by_refining, sets, seed), READ)


def before(seed: int, folder: Path) -> dict[str, Any]:
    """The student that all arms start from; the seed is that of its images alone."""
    return measured(START, seed, folder.parent)


def by_refining(sets: tuple[str, ...], seed: int, folder: Path) -> dict[str, Any]:
    """One arm."""
    run, data = folder / "run", real_digits(folder.parent)[0]
    common = (f"start={START}", f"train.seed={seed}", f"train.steps={STEPS}", f"gan.data={data}")
    refined(run, [*common, *WATCHED, *sets], "digits-gan")
    return {**measured(str(run), seed, folder.parent), "curve": curve(run)}


def real_digits(work: Path) -> tuple[Path, Path, Path]:
    """Tokens to train on, and pictures of those and of the ones held out."""
    folder = work / "real"
    tokens_at, seen_at, held_at = (folder / name for name in ("tokens", "seen", "held-out"))
    if (tokens_at / INDEX).is_file():
        return tokens_at, seen_at, held_at
    teacher, (tokens, labels) = load_teacher(), training_tokens()
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(SPLIT_SEED))
    for path, rows in ((seen_at, order[:TRAINED_ON]), (held_at, order[TRAINED_ON:])):
        path.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(to_pixels(teacher.tokenizer.decode(tokens[rows]))):
            save_png(pixels, path / f"{number:04d}.png", {})
    tokens_at.mkdir(exist_ok=True)
    path, rows = shard_path(tokens_at, 0), order[:TRAINED_ON]
    write_shard(path, tokens[rows].to(torch.uint8), labels[rows], {})
    recipe = Recipe(
        teacher="digits",
        revision=teacher.revision,
        image_size=teacher.space.image_size,
        resize="none",
        length=teacher.space.length,
        groups=teacher.space.groups,
        codes=teacher.space.codes,
        condition="labels",
        shard_size=TRAINED_ON,
    )
    entry = ShardEntry(file=path.name, images=TRAINED_ON, sha256=file_sha256(path))
    index = DatasetIndex(
        dimo=__version__, source="digits", images=TRAINED_ON, recipe=recipe, shards=(entry,)
    )
    write_json(tokens_at / INDEX, index.model_dump(mode="json"))
    return tokens_at, seen_at, held_at


def measured(target: str, seed: int, work: Path) -> dict[str, Any]:
    """FID, KID, precision, recall, density and coverage against both sets of real digits."""
    found = {}
    for name, path in zip(("seen", "held_out"), real_digits(work)[1:], strict=True):
        spec = EvalSpec(
            target=target,
            metrics=("fid", "kid", "pr"),
            samples=IMAGES,
            reference=str(path),
            features="digits",
            sampler=SamplerSpec(seed=SAMPLED + seed),
        )
        values = evaluate(spec, HubStore(), use_cache=False).document()["values"]
        found[name] = {key: float(np.round(value, 5)) for key, value in values.items()}
    return found


def curve(run: Path) -> dict[str, list[float | None]]:
    """Entropy, top-1 probability and FID along the training; None where it was not measured."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [line for line in lines if "entropy" in line]
    names = ("step", "entropy", "top1", "fid", "real_logit", "fake_logit", "gan_ratio")
    return {name: [rounded(line.get(name)) for line in kept] for name in names}


def rounded(value: float | None) -> float | None:
    """As much of a number as tells."""
    return None if value is None else round(value, 4)
