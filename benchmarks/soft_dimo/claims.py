"""Every claim of both papers in one row: what they say, what is found here, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.soft_dimo.evidence import (
    ONE_OVER_PROMPTS,
    Measured,
    Results,
    ablated,
    difference,
    digits,
    gain,
    gain_of_prompts,
    gain_of_seeds,
    longest,
    over_seeds,
    over_teacher,
    ratio,
    seeds_of,
)
from benchmarks.soft_dimo.rewards import MAIN, STEPS
from benchmarks.soft_dimo.shapes import WATCHING

Evidence = Mapping[str, Results]
EQUAL = (0.8, 1.25)  # the usual bounds of equivalence for a ratio
ABOVE, BELOW = float("inf"), float("-inf")
REPRODUCED, UNDECIDED, REFUTED, NOT_RUN = (
    "reproduced",
    "not reproduced",
    "refuted here",
    "not run",
)
ARM = str(MAIN)
DIMO, SOFT = "Di[M]O", "Soft-Di[M]O"


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper, and the numbers between which it would be true here."""

    text: str
    where: str
    said: str
    measure: Callable[[Evidence], Measured | None]
    what: str
    """What the number is."""
    low: float = BELOW
    high: float = ABOVE
    because: str = ""
    """Why it does not hold, if it does not."""

    @property
    def bar(self) -> str:
        """Between which numbers the claim would be true."""
        if self.low == BELOW:
            return f"below {self.high:g}"
        if self.high == ABOVE:
            return f"above {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    def verdict(self, found: Measured | None) -> str:
        """True only with the whole interval on the claimed side, refuted with all of it beyond."""
        if found is None:
            return NOT_RUN
        if found.low is None or found.high is None:
            return UNDECIDED
        if self.low < found.low and found.high < self.high:
            return REPRODUCED
        return REFUTED if found.high <= self.low or found.low >= self.high else UNDECIDED


def of_digits(key: str) -> Callable[[Evidence], Measured | None]:
    """A number of the preset `digits`, over its seeds."""
    return lambda evidence: over_seeds([run[key] for run in digits()])


def trained_over_teacher(steps: int) -> Callable[[Evidence], Measured | None]:
    """FID of the preset `digits` over its teacher's in so many steps."""
    return lambda evidence: over_teacher(steps)


def variant(
    what: str, name: str, base: tuple[str, str] | None = None
) -> Callable[[Evidence], Measured | None]:
    """An ablation on digits over the preset."""
    return lambda evidence: ablated(what, name, base)


def ahead_of(steps: int) -> Callable[[Evidence], Measured | None]:
    """The student's share of true pictures minus the teacher's, both at temperature 1."""

    def measure(evidence: Evidence) -> Measured | None:
        found = evidence.get("steps", {})
        return gain(found, "student-T1.0", found, f"teacher-{steps}-T1.0")

    return measure


def rewarded(name: str, other: str, base: str) -> Callable[[Evidence], Measured | None]:
    """The verifier's gain of a refinement for a reward over a trial of another part."""
    return lambda evidence: gain(evidence.get("rewards", {}), name, evidence.get(other, {}), base)


def refined(base: str) -> Callable[[Evidence], Measured | None]:
    """The verifier's gain of the longest refinement over a trial of `steps`."""

    def measure(evidence: Evidence) -> Measured | None:
        steps, after = longest(evidence.get("rewards", {}), ARM)
        found = gain_of_seeds(after, seeds_of(evidence.get("steps", {}), base))
        return with_steps(found, steps)

    return measure


def varied(evidence: Evidence) -> Measured | None:
    """Diversity after refinement, of that before."""
    return beside_start(evidence, lambda after, start: after["diversity"] / start["diversity"])


def watched(evidence: Evidence) -> Measured | None:
    """What the judge that nobody trained for says after refinement, minus before."""
    return beside_start(evidence, lambda after, start: after[WATCHING] - start[WATCHING])


def beside_start(
    evidence: Evidence, tell: Callable[[Mapping[str, Any], Mapping[str, Any]], float]
) -> Measured | None:
    """A number of the longest refinement and of its start."""
    steps, after = longest(evidence.get("rewards", {}), ARM)
    before = seeds_of(evidence.get("steps", {}), "student-T1.0")
    both = sorted(after.keys() & before.keys())
    return with_steps(over_seeds([tell(after[s], before[s]) for s in both]), steps)


def with_steps(found: Measured | None, steps: int) -> Measured | None:
    """The same, saying of how many steps it is where these are not the usual ones."""
    if found is None or steps == STEPS:
        return found
    return replace(found, seeds=f"{found.seeds}, {steps} steps")


def fid(name: str, base: str) -> Callable[[Evidence], Measured | None]:
    """FID against held-out digits, over another arm's."""
    return lambda evidence: ratio(evidence.get("gan", {}), name, base, "fid", "held_out")


def more(name: str, base: str, key: str, part: str | None) -> Callable[[Evidence], Measured | None]:
    """A number of a GAN arm minus another arm's."""
    return lambda evidence: difference(evidence.get("gan", {}), name, base, key, part)


def distilled(name: str, base: str = "preset") -> Callable[[Evidence], Measured | None]:
    """FID of a short training of digits, over that of another."""
    return lambda evidence: ratio(evidence.get("distilling", {}), name, base, "fid", None)


def optimized(name: str, base: str) -> Callable[[Evidence], Measured | None]:
    """The verifier's gain of one budget of TTEO over another."""
    return lambda evidence: gain_of_prompts(
        evidence.get("tteo", {}), f"base-argmax-{name}", f"base-argmax-{base}"
    )


def of_estimators(tell: Callable[[Mapping[str, Any]], float]) -> Callable[[Evidence], Any]:
    """A number at the student's own logits, for both discriminators."""

    def measure(evidence: Evidence) -> Measured | None:
        found = evidence.get("estimators", {})
        names = [name for name in ("soft-1.0", "gumbel_st-1.0") if name in found]
        return over_seeds([tell(found[name]) for name in names], "discriminator")

    return measure


def sharpened(evidence: Evidence) -> Measured | None:
    """The bias of soft embeddings at eight times the logits over that at half of them."""
    found = evidence.get("estimators", {})
    seen = [s for s in ("soft", "gumbel_st") if f"{s}-8.0" in found and f"{s}-0.5" in found]
    ratios = [found[f"{s}-8.0"]["soft"]["bias"] / found[f"{s}-0.5"]["soft"]["bias"] for s in seen]
    return over_seeds(ratios, "discriminator")


def softness(
    tell: Callable[[Mapping[str, Any]], float],
) -> Callable[[Evidence], Measured | None]:
    """A number of soft decoding, over the shares of masks in x_init."""

    def measure(evidence: Evidence) -> Measured | None:
        names = [name for name in evidence.get("softness", {}) if name.startswith("r_init")]
        return over_seeds([tell(evidence["softness"][name]) for name in names], "r_init value")

    return measure


def certain(key: str) -> Callable[[Evidence], Measured | None]:
    """A number of soft decoding whose interval is over prompts."""

    def measure(evidence: Evidence) -> Measured | None:
        told = evidence.get("softness", {}).get("by-certainty", {}).get(key)
        if not isinstance(told, list):
            return None
        middle, low, high = told
        return Measured(middle, low, high, ONE_OVER_PROMPTS)

    return measure


def row(claim: Claim, found: Measured | None) -> list[str]:
    """A line of the table."""
    verdict = claim.verdict(found)
    because = claim.because if verdict in (REFUTED, UNDECIDED) else ""
    if verdict == UNDECIDED and found is not None and found.low is None:
        because = f"{found.seeds} alone"
    told = f"{verdict}: {because}" if because else verdict
    start = [claim.text, claim.where, claim.said]
    if found is None:
        return [*start, "", "", "", "", told]
    number = f"{found.mean:.3g} ({claim.what})"
    return [*start, number, found.interval, found.seeds, claim.bar, told]


def short(claim: Claim, found: Measured) -> list[str]:
    """The same for readers in a hurry, of a claim that was tried."""
    number = f"{found.mean:.3g}{'' if found.low is None else f' {found.interval}'}"
    return [claim.text, claim.said, number, found.seeds, claim.verdict(found)]
