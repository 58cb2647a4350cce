"""Adapters alone, as a folder that peft loads over the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dimo_cli.engine.lora import rank_and_alpha
from dimo_cli.errors import SpecError
from dimo_cli.files.writing import writing_to
from dimo_cli.specs.manifest import ADAPTER_WEIGHTS
from dimo_cli.students.folder import write_network
from dimo_cli.students.student import Student


def export_adapters(student: Student, folder: Path) -> dict[str, Any]:
    """Write the two files of a student's adapters; what is to be said of them."""
    manifest = student.manifest
    if manifest.lora is None:
        raise SpecError(
            "This student has weights of its own and no adapters.",
            "Make adapters of it with `dimo extract`, or leave --lora out.",
        )
    with writing_to(folder, "Make room, or choose another `--out`."):
        folder.mkdir(parents=True, exist_ok=True)
        digest = write_network(student.backbone, folder, manifest.teacher)
    rank, alpha = rank_and_alpha(student.backbone)
    size = (folder / ADAPTER_WEIGHTS).stat().st_size
    teacher = manifest.teacher
    return {
        "base": teacher.name,
        "revision": teacher.revision,
        "rank": rank,
        "alpha": alpha,
        "bytes": size,
        "sha256": digest,
    }
