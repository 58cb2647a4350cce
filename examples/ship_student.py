"""Turns a student into one that ships in the package: weights, manifest, preview and card.

python examples/ship_student.py runs/shapes@step-1900 --out dimo_cli/teachers/builtin/shapes-student

Weights are stored in half precision, or in bytes with a scale for each row; as they are, a shipped
student gets a new preview and card alone. Both are made from what is stored, and show exactly that.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli.cards.card import student_card
from dimo_cli.files.writing import file_sha256
from dimo_cli.publishing.preview import draw_preview
from dimo_cli.specs.manifest import CARD, MANIFEST, PREVIEW, WEIGHTS
from dimo_cli.students.folder import describe_student, load_student, read_manifest, write_student
from dimo_cli.students.published import open_student
from dimo_cli.teachers.stored import in_bytes

STORED: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "half": lambda weights: {name: each.half().contiguous() for name, each in weights.items()},
    "bytes": in_bytes,
}


def store(folder: Path, kind: str) -> None:
    """Store the weights of a student smaller, with their hash in the manifest."""
    save_file(STORED[kind](load_file(folder / WEIGHTS)), folder / WEIGHTS)
    facts = {"weights_sha256": file_sha256(folder / WEIGHTS)}
    manifest = read_manifest(folder / MANIFEST).model_copy(update=facts)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def ship(source: str, target: Path, kind: str) -> None:
    """Write the student `source` to `target`, whose files it replaces once all are made."""
    with tempfile.TemporaryDirectory() as workplace:
        folder = Path(workplace) / "student"
        write_student(folder, open_student(source))
        if kind in STORED:
            store(folder, kind)
        student = load_student(folder)
        (folder / CARD).write_text(student_card(describe_student(student)), encoding="utf-8")
        draw_preview(student, folder / PREVIEW)
        target.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, MANIFEST, CARD, PREVIEW):
            (folder / name).chmod(0o644)
            shutil.copy(folder / name, target / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", help="a run, RUN@step-N, a folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", choices=(*STORED, "as-is"), default="half")
    options = parser.parse_args()
    ship(options.student, options.out, options.store)


if __name__ == "__main__":
    main()
