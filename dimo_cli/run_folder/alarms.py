"""What the lines of log.jsonl say of a run that goes wrong, while it can still be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

# A student is certain of every token. A healthy one may be sure, too, where captions say nearly all
# and x_init the rest: that of `shapes` has 0.012 nats and 0.997; a collapsed one has 0.002 and 1.
COLLAPSED_NATS, COLLAPSED_TOP1, COLLAPSED_LINES = 0.005, 0.998, 2
GAP_FACTOR, GAP_NATS, GAP_LINES = 1.5, 0.25, 20
# An auxiliary that is still where it began: near the teacher. Seen once, in lines 11 to 20.
NEAR_TEACHER_NATS, SETTLED_LINES = 0.05, 10

REMEDIES = {
    "collapse": "Lower `student.optimizer.learning_rate`: it should be below the auxiliary's.",
    "reward_hacking": "Lower `reward.weight`, or stop earlier: the student before it is in "
    "`checkpoints/`.",
    "auxiliary": "Raise `auxiliary.optimizer.learning_rate` or `auxiliary.updates`.",
}


class Alarms:
    """Reads a log line by line, and knows what is wrong now."""

    def __init__(self, from_teacher: bool = True) -> None:
        """`from_teacher`: the student began as a copy of its teacher, not as a good student."""
        self.from_teacher = from_teacher
        self.certain = 0
        self.gaps: list[float] = []
        self.divergences: list[float] = []
        self.active: dict[str, str] = {}
        """What is wrong now: a sentence by the name of each alarm."""

    def see(self, record: Mapping[str, Any]) -> list[str]:
        """Take in a line; the names of the alarms that it sets off."""
        before = set(self.active)
        for name, problem in (
            ("collapse", self.collapse(record)),
            ("auxiliary", self.auxiliary(record)),
        ):
            if problem:
                self.active[name] = problem
            elif problem is not None:
                self.active.pop(name, None)
        return [name for name in self.active if name not in before]

    def collapse(self, record: Mapping[str, Any]) -> str | None:
        """A student that is certain of everything; None where a line does not tell."""
        entropy, top1 = record.get("entropy"), record.get("top1")
        if entropy is None or top1 is None:
            return None
        is_certain = entropy < COLLAPSED_NATS and top1 > COLLAPSED_TOP1
        self.certain = self.certain + 1 if is_certain else 0
        if self.certain < COLLAPSED_LINES:
            return ""
        return (
            f"the student collapsed: at step {record['step']:,} its entropy is {entropy:.3f} nats "
            f"and its top-1 probability {top1:.3f}, so that all samples of a class are alike."
        )

    def auxiliary(self, record: Mapping[str, Any]) -> str | None:
        """An auxiliary that lost the student, or never left the teacher."""
        gap, divergence = record.get("auxiliary_gap"), record.get("divergence")
        if gap is None or divergence is None:
            return None
        self.gaps.append(gap)
        self.divergences.append(divergence)
        if rise := gap_rise(self.gaps):
            return (
                f"the auxiliary cannot keep up with the student: at step {record['step']:,} its "
                f"gap has risen from {rise[0]:.3g} to {rise[1]:.3g} nats."
            )
        if len(self.gaps) < 2 * SETTLED_LINES or not self.from_teacher:
            return ""
        settled = median(self.divergences[SETTLED_LINES : 2 * SETTLED_LINES])
        if abs(settled) >= NEAR_TEACHER_NATS:
            return ""
        return (
            f"the auxiliary does not follow the student: its divergence from the teacher is only "
            f"{settled:.3g}, so that the student hardly hears what is wrong."
        )


def gap_rise(gaps: list[float]) -> tuple[float, float] | None:
    """The gap before and after it rose steeply; None where it did not."""
    if len(gaps) < GAP_LINES:
        return None
    before = median(gaps[len(gaps) // 4 : len(gaps) // 2])
    after = median(gaps[-max(3, len(gaps) // 10) :])
    return (before, after) if after >= max(GAP_FACTOR * before, before + GAP_NATS) else None


def told(name: str, problem: str) -> str:
    """An alarm with its remedy."""
    return f"Alarm `{name}`: {problem} {REMEDIES[name]}"
