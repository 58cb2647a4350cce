"""Claims of Soft-Di[M]O that need a student with something to gain, tried on `emoji`."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.soft_dimo.claims import SOFT, Claim, Evidence
from benchmarks.soft_dimo.emoji import WATCHING
from benchmarks.soft_dimo.evidence import Measured, difference, gain, ratio


def gained(name: str, base: str = "before") -> Callable[[Evidence], Measured | None]:
    """The reader's paired gain in true pictures of one arm over another."""

    def measure(evidence: Evidence) -> Measured | None:
        found = evidence.get("emoji", {})
        return gain(found, name, found, base)

    return measure


def over(name: str, base: str, key: str) -> Callable[[Evidence], Measured | None]:
    """A number of one arm over that of another, seed by seed."""
    return lambda evidence: ratio(evidence.get("emoji", {}), name, base, key, None)


def minus(name: str, base: str, key: str) -> Callable[[Evidence], Measured | None]:
    """A number of one arm minus that of another, seed by seed."""
    return lambda evidence: difference(evidence.get("emoji", {}), name, base, key, None)


NEW_AUXILIARY = (
    "the auxiliary of a refinement starts at the teacher again, and until it follows, pictures are "
    "lost, without a reward as well; the reward does not make good for them"
)
AROUND_THE_PAPERS = (
    "each seed is below 1, and their mean near the paper's 0.93, but three seeds differ too much"
)

OF_EMOJI = (
    Claim(
        "a GAN improves a student of prompts",
        f"{SOFT}, Table 2",
        "FID 6.91 to 6.40, 0.93, with classes",
        over("gan-soft", "gan-none", "fid"),
        "FID over the same training without it, emoji",
        high=0.9,
        because=AROUND_THE_PAPERS,
    ),
    Claim(
        "and brings recall back there",
        f"{SOFT}, Tables 1 and 2",
        "0.49 to 0.55",
        minus("gan-soft", "gan-none", "recall"),
        "recall, minus the control's, emoji",
        low=0,
    ),
    Claim(
        "soft embeddings are better than Gumbel's for a GAN there",
        f"{SOFT}, Fig. 4a",
        "lower FID throughout",
        over("gan-soft", "gan-gumbel", "fid"),
        "FID over straight-through's, emoji",
        high=1,
    ),
    Claim(
        "a GAN alone is worse than one beside Di[M]O",
        f"{SOFT}, Fig. 4b",
        "higher FID",
        over("gan-alone", "gan-soft", "fid"),
        "FID over that with both, emoji",
        low=1,
    ),
    Claim(
        "a reward makes more pictures of hundreds of things true",
        f"{SOFT}, Table 3",
        "GenEval 0.42 to 0.51",
        gained("reward-soft"),
        "true pictures, minus before, T = 1, emoji",
        low=0.02,
        because=NEW_AUXILIARY,
    ),
    Claim(
        "more than the same training without it",
        f"{SOFT}, Table 3",
        "not told",
        gained("reward-soft", "reward-none"),
        "true pictures, minus the control's, T = 1, emoji",
        low=0,
    ),
    Claim(
        "and another judge agrees",
        f"{SOFT}, Table 3",
        "HPS 27.14 to 29.38",
        minus("reward-soft", "before", WATCHING),
        "the watching judge, minus before, emoji",
        low=0,
    ),
    Claim(
        "with little loss of diversity there",
        f"{SOFT}, Fig. 21",
        "for few prompts",
        over("reward-soft", "before", "diversity"),
        "diversity over that before, emoji",
        low=0.9,
    ),
    Claim(
        "soft embeddings are better than Gumbel's for a reward there",
        f"{SOFT}, Fig. 11",
        "higher GenEval throughout",
        gained("reward-soft", "reward-gumbel"),
        "true pictures, minus straight-through's, emoji",
        low=0,
    ),
    Claim(
        "a reward without Di[M]O costs pictures",
        f"{SOFT}, I.10",
        "over-saturated images",
        over("reward-alone", "reward-soft", "fid"),
        "FID over that with both, emoji",
        low=1,
    ),
)
