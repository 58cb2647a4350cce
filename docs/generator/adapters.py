"""The page of adapters, with what was measured of them.

benchmarks/results/lora_ranks.json      `python -m benchmarks.lora_ranks`
benchmarks/results/stored_weights.json  `python -m benchmarks.stored_weights`
"""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from benchmarks import lora_ranks, stored_weights
from benchmarks.lora_ranks import SEEDS, WHOLE, Kept, pairs
from docs.generator.markdown import fill, table

UNKNOWN = "Not measured yet."
BAR = 1.1  # of the FID of whole copies: what adapters are to reach


def lora_page() -> str:
    """The whole page."""
    return fill(
        "lora.md",
        ranks=ranks_table(Kept(lora_ranks.RESULTS)),
        steps=lora_ranks.STEPS,
        batch=lora_ranks.BATCH,
        images=lora_ranks.IMAGES,
        errors=errors_table(),
        sizes=sizes_table(),
    )


def ranks_table(kept: Kept) -> str:
    """Every pair of ranks against whole copies, as far as all seeds are there."""
    whole = kept.by_seed(WHOLE, WHOLE)
    if len(whole) < len(SEEDS):
        return UNKNOWN
    rows = [row_of(kept, student, auxiliary, whole) for student, auxiliary in pairs()]
    head = ("student", "auxiliary", "rates", "FID of each seed", "mean", "of whole copies", "")
    return table(head, [row for row in rows if row])


def row_of(kept: Kept, student: int, auxiliary: int, whole: dict[int, float]) -> list[str]:
    """What a pair of ranks came to; nothing where seeds are missing."""
    found, arm = kept.by_seed(student, auxiliary), kept.arm(student, auxiliary, SEEDS[0])
    if len(found) < len(SEEDS) or arm is None:
        return []
    share = mean(found.values()) / mean(whole.values())
    return [
        told(student),
        told(auxiliary),
        " and ".join(dict.fromkeys(f"x {r.factor:g}" for r in (arm.student, arm.auxiliary))),
        ", ".join(f"{fid:.2f}" for fid in found.values()),
        f"{mean(found.values()):.2f}",
        f"{share:.2f}",
        "" if (student, auxiliary) == (WHOLE, WHOLE) else f"within {BAR}" if share <= BAR else "",
    ]


def told(rank: int) -> str:
    """A rank in words."""
    return "whole" if rank == WHOLE else f"rank {rank}"


def read_weights() -> dict[str, Any]:
    """What is known of rounded weights."""
    found: dict[str, Any] = json.loads(stored_weights.RESULTS.read_text(encoding="utf-8"))
    return found


def sizes_table() -> str:
    """What the largest teacher takes with each kind of weights."""
    kinds = read_weights()[stored_weights.LARGEST]["bytes"]
    words = {
        "to_sample": "its weights, to draw with",
        "to_train": "training adapters of rank 64 on a card, one sample at a time, recomputed",
    }
    rows = [
        [told, *(f"{kinds[kind][key] / 1e9:.1f} GB" for kind in ("fp32", "bf16", "int8"))]
        for key, told in words.items()
    ]
    return table((f"`{stored_weights.LARGEST}`", "fp32", "bf16", "int8"), rows)


def errors_table() -> str:
    """What rounded weights do to guided logits, for every family."""
    rows = read_weights()["rows"]
    return table(
        ("teacher", "guidance", "bf16", "int8"),
        [
            [f"`{name}`", f"{row['guidance']:g}"]
            + [f"{row[kind]['relative']:.1%}" for kind in stored_weights.KINDS]
            for name, row in rows.items()
        ],
    )
