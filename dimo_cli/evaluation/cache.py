"""Evaluations that need no second pass: one file for each content and protocol."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dimo_cli import __version__
from dimo_cli.errors import SpecError
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.evaluation.subjects import Subject, content_hash
from dimo_cli.files.reading import MOST_DOCUMENT, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.files.writing import write_whole_text
from dimo_cli.hub.access import dimo_cache
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.inception import VARIABLE
from dimo_cli.specs.evaluate import EvalSpec, MetricName
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.registry import EMBEDDED


def cache_file(
    spec: EvalSpec, subject: Subject, names: Sequence[MetricName], store: HubStore
) -> Path:
    """Where the results of exactly this are kept."""
    paths = {"target", "reference", "inception"}  # what they hold counts, not what they are called
    plain = spec.model_dump(mode="json", exclude={"maximum", "minimum", "save_images", *paths})
    facts = {
        "dimo": __version__,
        "spec": plain,
        "metrics": list(names),
        "subject": subject.facts,
        "teacher": subject.teacher,
        "images": len(subject.images),
        "prompts": subject.prompts.sha256 if subject.prompts else None,
        "reference": content_at(spec.reference),
        "inception": content_at(spec.inception or os.environ.get(VARIABLE)),
        "weights": shipped_weights(subject.domain),
        "local_files": listing_of(store.local_dir),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return dimo_cache() / "eval" / f"{key}.json"


def shipped_weights(domain: str) -> str | None:
    """A hash of what ships for an embedded teacher: no commit says which weights they are."""
    if domain not in EMBEDDED:
        return None
    folder = Path(builtin_path(""))
    parts = [p for p in sorted(folder.iterdir()) if p.name.partition(".")[0].startswith(domain)]
    return hashlib.sha256("".join(map(content_hash, parts)).encode()).hexdigest()


def listing_of(folder: Path | None) -> str | None:
    """A hash of the sizes and times of all files in a folder, where reading gigabytes is too slow.

    Their content is not looked at: a file that is replaced has another time at least.
    """
    if folder is None:
        return None
    digest = hashlib.sha256()
    walked = os.walk(folder, followlinks=True)  # models are often kept elsewhere
    files = (Path(parent, name) for parent, _, names in walked for name in names)
    for file in sorted(path for path in files if path.is_file()):
        found = file.stat()
        about = f"\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n"
        digest.update(os.fsencode(file) + about.encode())
    return digest.hexdigest()


def content_at(path: str | None) -> str | None:
    """A hash of what is at a path, if it is given and exists; else its name."""
    found = Path(path).expanduser() if path else None
    return content_hash(found) if found and found.exists() else path


def read_cache(path: Path) -> dict[str, Any] | None:
    """A result that was kept; None where there is none, or a damaged one."""
    try:
        document: dict[str, Any] = parse_json(read_text(path, MOST_DOCUMENT))
        Evaluation.read(document)
    except (OSError, ValueError, SpecError):
        return None
    return document


def write_cache(path: Path, evaluation: Evaluation) -> None:
    """Keep results; a cache that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(path, json.dumps(evaluation.document()))
    except OSError:
        return


def row_file(facts: Mapping[str, Any]) -> Path:
    """Where a teacher's row of the closing table is kept: under all that decides its value."""
    text = json.dumps({"dimo": __version__, "torch": torch.__version__, **facts}, sort_keys=True)
    return dimo_cache() / "tables" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of tensors by name, type and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
