"""What dimo measured of presets: gathered from what commands wrote, for `presets/measured.json`.

benchmarks/results/digits.json       `python -m benchmarks.digits`
benchmarks/results/presets/*.json    `dimo eval ... --json` of a preset's teacher or student
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from dimo_cli.cards.facts import COUNTED
from dimo_cli.metrics.expected import losses_of
from dimo_cli.metrics.measured import FILE, read_measured
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import MANIFEST
from dimo_cli.specs.resolve import presets_folder, resolve_spec
from dimo_cli.students.folder import BUILTIN, read_manifest
from docs.generator.markdown import HERE

ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def measured() -> dict[str, list[dict[str, Any]]]:
    """Every number by its preset's teacher, in the order of the files."""
    found: dict[str, list[dict[str, Any]]] = {}
    for teacher, row in [*of_digits(RESULTS / "digits.json"), *of_evaluations(RESULTS / "presets")]:
        rows = found.setdefault(teacher, [])
        key = (row["sampler"], row["metric"], row["images"])
        if all((one["sampler"], one["metric"], one["images"]) != key for one in rows):
            rows.append(row)
    return found


def write_measured() -> bool:
    """Bring the file up to date; returns whether it was not."""
    path, text = presets_folder() / FILE, json.dumps(measured(), indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    read_measured.cache_clear()
    return True


def of_digits(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The benchmark of the digits preset: runs over seeds, with the preset's closing table."""
    document = json.loads(path.read_text(encoding="utf-8"))
    spec = resolve_spec(DistillSpec, preset="digits", sets=document["set"], environment={}).spec
    runs, images = document["runs"], spec.monitor.table_samples
    shared = {"metric": "fid", "images": images, "file": path.relative_to(ROOT).as_posix()}
    for steps in sorted(runs[0]["teacher_fid_by_steps"], key=int, reverse=True):
        value = mean(run["teacher_fid_by_steps"][steps] for run in runs)
        yield "digits", {"sampler": steps, **shared, "value": value, "about": ""}
    value = mean(run["student_fid"] for run in runs)
    about = f"mean of {len(runs)} seeds"
    yield "digits", {"sampler": spec.method, **shared, "value": value, "about": about}


def of_evaluations(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Evaluations that were kept; those of a built-in student that is no more are left out."""
    current = {read_manifest(place / MANIFEST).weights_sha256 for place in BUILTIN.values()}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        subject = document["subject"]
        teacher = subject["teacher"].partition("@")[0]
        if teacher in BUILTIN and subject.get("student_sha256") not in (None, *current):
            continue
        built_in = teacher in BUILTIN and subject.get("student_sha256") is not None
        by = subject.get("method") or (method_of(teacher) if built_in else subject["steps"])
        sampler = losses_of(str(by))
        for result in document["results"]:
            plain = COUNTED.match(result["metric"])  # fid50k is the FID, told by its images
            yield (
                teacher,
                {
                    "sampler": sampler,
                    "metric": plain.group(1) if plain else result["metric"],
                    "images": result["protocol"].get("images"),
                    "file": path.relative_to(ROOT).as_posix(),
                    "value": result["value"],
                    "about": "the built-in student" if built_in else "",
                },
            )


def method_of(preset: str) -> str:
    """What a preset's student is trained with."""
    return resolve_spec(DistillSpec, preset=preset, environment={}).spec.method
