"""`dimo eval ref build`: real images measured once, with what was done to them in the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dimo_cli.data.folders import open_images
from dimo_cli.data.pictures import Fit
from dimo_cli.errors import SpecError
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.networks import NetworkSource, check_network, check_of_inception, load_network
from dimo_cli.metrics.references import build_reference, spread, write_reference
from dimo_cli.students.student import best_device

READ_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """Which images become a reference, and how."""

    images: Path
    networks: tuple[str, ...]
    resize: str | None
    crop: int | None
    recipe: str | None
    keep: int


def check_read(plan: ReferencePlan, inception: str | None) -> None:
    """Refuse settings that nothing would read."""
    if plan.recipe is not None and plan.crop is None:
        raise SpecError(
            f"`--recipe` is {plan.recipe}, how to crop, but there is no crop.",
            "Add `--crop SIDE`, or leave it out.",
        )
    check_of_inception(plan.networks, {"--resize": plan.resize, "--inception": inception})


def build_file(
    plan: ReferencePlan,
    file: Path,
    inception: str | None,
    store: HubStore,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the reference of a plan; what it holds, as a document."""
    for name in plan.networks:
        check_network(name)
    if file.suffix != ".npz":
        raise SpecError(f"`--out` is {file}: it must end in .npz.", "References are npz files.")
    check_read(plan, inception)
    fit = Fit(plan.recipe or "lanczos", plan.crop) if plan.crop is not None else None
    images = open_images(plan.images, fit=fit)
    weights = Path(inception).expanduser() if inception else None
    source = NetworkSource(plan.resize or "clean", weights, True, store, say)
    networks = [load_network(name, source, best_device()) for name in plan.networks]
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(images))

    facts = {"source": plan.images.name, "crop": fit.note if fit else "none"}
    with torch.inference_mode():
        references = build_reference(
            images.batches(READ_AT_ONCE),
            networks,
            facts,
            spread(len(images), plan.keep),
            advance,
        )
    notes = list(dict.fromkeys([*images.notes(), *(w for r in references for w in r.warnings)]))
    for note in notes:
        say(note)
    return {
        "file": str(file),
        "sha256": write_reference(file, references),
        "images": len(images),
        "networks": [reference.facts["network"] for reference in references],
        **facts,
        "notes": notes,
    }
