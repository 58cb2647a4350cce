"""The report: every claim of both papers that was tried, with its interval and its seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.soft_dimo import curves, report_of_emoji
from benchmarks.soft_dimo.claims import NOT_RUN, REFUTED, REPRODUCED, UNDECIDED, row, short
from benchmarks.soft_dimo.claims_of_dimo import OF_DIMO
from benchmarks.soft_dimo.claims_of_emoji import OF_EMOJI
from benchmarks.soft_dimo.claims_of_soft import OF_SOFT
from benchmarks.soft_dimo.distilling import ARMS as ARMS_OF_DISTILLING
from benchmarks.soft_dimo.evidence import BySeed, Results, gain_of_seeds, longest, seeds_of
from benchmarks.soft_dimo.gan import ARMS
from benchmarks.soft_dimo.intervals import mcnemar
from benchmarks.soft_dimo.rewards import ARMS as ARMS_OF_REWARDS
from benchmarks.soft_dimo.rewards import MAIN, STEPS, Arm
from benchmarks.soft_dimo.shapes import WATCHING
from benchmarks.soft_dimo.steps import TEACHER_STEPS, TEMPERATURES
from benchmarks.soft_dimo.tables import gain, over_seeds, table
from benchmarks.soft_dimo.trials import Trial, unpacked
from benchmarks.soft_dimo.tteo import BUDGETS

HEAD = """# Soft-Di[M]O in the small world

Made by `python -m benchmarks.soft_dimo`, which keeps every number in
`benchmarks/results/soft_dimo/`. The teachers are the embedded `digits`, `shapes` and `emoji`; the
papers' figures are of MaskGit and MaskBit on ImageNet and of MaskGen-L, so directions and ratios
compare, not numbers. Intervals are of 95 %: by a paired bootstrap over prompts and seeds (with one
seed over prompts alone, which says nothing of another training), by Student's t over two or three
training seeds, where two have to agree closely to decide anything (by Welch's t where the teacher
has sampling seeds of its own). The estimators are compared at
two discriminators, one that learned from soft fakes and one from drawn ones, and the temperatures
of soft images at five shares of masks: these stand where others have seeds.

A claim is *reproduced* if the whole interval is on its side of the bar, *refuted here* if all of it
is beyond, and *not reproduced* if the interval holds the bar, or if there is none, as with a
single value. What a refinement does is told as a gain over the student that it starts from, which
so cannot pass a bar unrefined. *Not run* is what nobody has measured here yet.

`shapes_preference` is trained on pictures of teacher and student that the verifier judged, so a
gain that the verifier sees after training for it is not independent of it. `shapes_witness`,
another network from other scenes and other pictures, never gives a gradient; it learned from the
same verifier, though. The reader of `emoji` gives no gradient either; it and the rewards there,
other networks that saw other draws, learned by one rule which pictures show nothing.
"""


CLAIMS = (*OF_DIMO, *OF_SOFT, *OF_EMOJI)


def claims(measured: Mapping[str, Results]) -> str:
    """Every claim of both papers."""
    found = [(claim, claim.measure(measured)) for claim in CLAIMS]
    head = ["claim", "paper", "it says", "here", "95 % interval", "seeds", "bar", "verdict"]
    rows = [row(claim, value) for claim, value in found]
    return "## The claims\n\n" + told_briefly(measured) + "\n" + table(head, rows)


def told_briefly(measured: Mapping[str, Results]) -> str:
    """How many claims hold."""
    verdicts = Counter(claim.verdict(claim.measure(measured)) for claim in CLAIMS)
    kinds = (REPRODUCED, UNDECIDED, REFUTED, NOT_RUN)
    told = ", ".join(f"{verdicts[kind]} {kind}" for kind in kinds)
    return f"{len(CLAIMS)} claims: {told}.\n"


def short_table(measured: Mapping[str, Results]) -> str:
    """The claims that were tried, for the README."""
    found = [(claim, claim.measure(measured)) for claim in CLAIMS]
    rows = [short(claim, value) for claim, value in found if value is not None]
    return (
        told_briefly(measured) + "\n" + table(["claim", "paper", "here", "seeds", "verdict"], rows)
    )


def share(result: Mapping[str, Any]) -> float:
    """The share of true pictures."""
    return mean(unpacked(result["true"]))


def steps(measured: Mapping[str, Results]) -> str:
    """Student against teacher."""
    found, rows = measured["steps"], []
    for temperature in TEMPERATURES:
        student = seeds_of(found, f"student-T{temperature}")
        if student:
            told = over_seeds([share(result) for result in student.values()])
            rows.append(["student, 1 step", str(temperature), told, ""])
        for count in TEACHER_STEPS:
            name = f"teacher-{count}-T{temperature}"
            teacher = seeds_of(found, name)
            if teacher:
                told = over_seeds([share(result) for result in teacher.values()])
                ahead = gain(found, found, f"student-T{temperature}", name)
                rows.append([f"teacher, {count} steps", str(temperature), told, str(ahead or "")])
    return "## Student against teacher, at equal temperatures\n\n" + table(
        ["network", "temperature", "true", "student minus teacher"], rows
    )


def rewards(measured: Mapping[str, Results]) -> str:
    """Refinement for a reward."""
    found, base = measured["rewards"], measured.get("steps", {})
    start = seeds_of(base, "student-T1.0")
    rows = [
        row
        for arm in ARMS_OF_REWARDS
        if (row := row_of_reward(arm, seeds_of(found, str(arm)), start))
    ]
    steps, longer = longest(found, str(MAIN))
    if steps != STEPS and (row := row_of_reward(MAIN, longer, start)):
        rows.append([*row[:-1], f"{row[-1]}, {steps} steps"])
    head = ["reward", "Di[M]O", "estimator", "norm ratio", "verifier's gain", "watching judge"]
    return (
        "## Rewards\n\nThe shipped student before and after 300 steps, T = 1, the same prompts; "
        "the ratio is that of weighted gradient norms at the logits.\n\n"
        + table([*head, "diversity, of the start's", "seeds"], rows)
    )


def row_of_reward(arm: Arm, after: BySeed, start: BySeed) -> list[str] | None:
    """One arm, over the seeds whose start was measured as well."""
    both, gained = sorted(after.keys() & start.keys()), gain_of_seeds(after, start)
    if gained is None:
        return None
    watched = mean(after[s][WATCHING] - start[s][WATCHING] for s in both)
    varied = mean(after[s]["diversity"] / start[s]["diversity"] for s in both)
    told = f"{gained.mean:+.3f} [{gained.low:+.3f}, {gained.high:+.3f}]"
    row = [arm.judge, arm.beside, arm.estimator, str(arm.ratio), told]
    return [*row, f"{watched:+.2f}", f"{varied:.2f}", str(len(both))]


def gan(measured: Mapping[str, Results]) -> str:
    """Adversarial refinement."""
    found, rows = measured["gan"], []
    for name in ("before", *ARMS):
        arms, control = seeds_of(found, name), seeds_of(found, "control")
        if not arms:
            continue
        row = [name]
        for part in ("held_out", "seen"):
            row += [over_seeds([fid_of(result[part]) for result in arms.values()])]
        both = sorted(arms.keys() & control.keys())
        ratios = [fid_of(arms[s]["held_out"]) / fid_of(control[s]["held_out"]) for s in both]
        rows.append([*row, f"{mean(ratios):.2f}" if ratios else ""])
    return (
        "## GAN on digits\n\nFID of 5,000 images; 1,400 real images are trained on, 397 held out. "
        "The control is the same training with the GAN off. The paper, MaskGit: 6.91 to 6.40, a "
        "ratio of 0.93 (Table 2).\n\n"
        + table(["training", "FID, held out", "FID, trained on", "over the control"], rows)
        + "\n"
        + curves.text(found)
    )


def fid_of(values: Mapping[str, float]) -> float:
    """The FID among the values of one evaluation."""
    return next(value for name, value in values.items() if name.startswith("fid"))


def distilling(measured: Mapping[str, Results]) -> str:
    """Settings of Di[M]O itself."""
    found, rows = measured["distilling"], []
    for name, sets in ARMS_OF_DISTILLING.items():
        arms = list(seeds_of(found, name).values())
        if arms:
            changed = ", ".join(f"`{one}`" for one in sets) or "nothing"
            told = [over_seeds([arm[key] for arm in arms]) for key in ("fid", "accuracy")]
            rows.append([name, changed, *told])
    return (
        "## Settings of Di[M]O, on digits\n\nThe preset with something changed, from the teacher, "
        "after 400 steps; FID of 5,000 images, and the share that is of the class asked for.\n\n"
        + table(["training", "changed", "FID", "accuracy"], rows)
    )


def tteo(measured: Mapping[str, Results]) -> str:
    """Test-time optimization."""
    found, rows = measured["tteo"], []
    for whose in ("base", "refined"):
        for decode in ("soft", "argmax"):
            for name in BUDGETS:
                result = found.get(f"{whose}-{decode}-{name}")
                if result is None:
                    continue
                rival = nearest(found, f"{whose}-{decode}", result["seconds"])
                p = ""
                if rival and not name.startswith(("best", "plain")):
                    one, other = unpacked(result["true"]), unpacked(found[rival]["true"])
                    p = f"{mcnemar(one, other):.3g} against {rival.split('-', 2)[2]}"
                row = [whose, decode, name, f"{share(result):.3f}", f"{result['seconds']:.3f}"]
                rows.append([*row, f"{result[WATCHING]:.2f}", p])
    head = ["student", "decoded", "budget", "true", "seconds", "watching judge", "McNemar's p"]
    return (
        "## TTEO\n\n`shapes_preference` selects and gives the gradient; p is against the best of N "
        "that takes most nearly as long.\n\n" + table(head, rows)
    )


def nearest(found: Results, prefix: str, seconds: float) -> str | None:
    """The best of N that takes most nearly as long."""
    rivals = [name for name in found if name.startswith(f"{prefix}-best")]
    return min(rivals, key=lambda name: abs(found[name]["seconds"] - seconds), default=None)


def estimators(measured: Mapping[str, Results]) -> str:
    """Bias and variance."""
    rows = []
    for name, result in measured["estimators"].items():
        seen, factor = name.rsplit("-", 1)
        for kind in ("soft", "gumbel_st", "reinforce"):
            told = result[kind]
            row = [seen, factor, f"{result['entropy']:.3f}", kind]
            rows.append([*row, *(f"{told[key]:.3g}" for key in ("bias", "variance", "cosine"))])
    head = [
        "discriminator saw",
        "logits times",
        "entropy",
        "estimator",
        "bias",
        "variance",
        "cosine",
    ]
    return (
        "## Estimators (Table 4)\n\nOne discriminator for all, the same logits and mask; bias over "
        "the norm and variance over the squared norm of a REINFORCE mean of 1e5 draws.\n\n"
        + table(head, rows)
    )


def softness(measured: Mapping[str, Results]) -> str:
    """What decoding softly changes."""
    rows = []
    for name, result in measured["softness"].items():
        if name == "by-certainty":
            continue
        for temperature, told in result.items():
            ratio = told["soft_vs_sampled"] / told["tokenizer"]
            row = [name.removeprefix("r_init-"), temperature, f"{told['entropy']:.2f}"]
            row += [f"{told[key]:.2e}" for key in ("soft_vs_sampled", "soft_vs_argmax")]
            rows.append([*row, f"{ratio:.1f}"])
    head = ["r_init", "temperature", "entropy", "against drawn", "against argmax"]
    text = "## Soft images (Fig. 8)\n\n" + table([*head, "drawn, over the tokenizer's error"], rows)
    certain = measured["softness"].get("by-certainty")
    if certain:
        rows = [[name, as_told(value)] for name, value in certain.items()]
        text += "\nWhere the difference to drawn tokens is:\n\n" + table(["what", "value"], rows)
    return text + why_soft_costs(measured)


def as_told(value: float | Sequence[float]) -> str:
    """A number, with its interval if it has one."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"


WHY_SOFT_COSTS = """
Why it is so many times the tokenizer's error. The error of the tokenizer is so small here because
the pictures are flat colors on its own grid; a ratio over it tells little. The error itself is
the spread of what the student may draw: two draws of the same probabilities are {twice} apart,
so no image between them is much nearer to both. Most of it is at the few tokens that the student
is not sure of, where a mean of two colors is neither. A lower temperature takes it away: at 0.25
the soft image is within {sharp} of the tokenizer's errors of the likeliest tokens' image.
"""


def why_soft_costs(measured: Mapping[str, Results]) -> str:
    """The explanation with its numbers, where they are there."""
    certain, shipped = (measured["softness"].get(key) for key in ("by-certainty", "r_init-0.95"))
    if not certain or not shipped:
        return ""
    sharp = shipped["0.25"]["soft_vs_argmax"] / shipped["0.25"]["tokenizer"]
    twice = certain["two draws against each other, over it"][0]
    return WHY_SOFT_COSTS.format(twice=f"{twice:.1f} times as far", sharp=f"{sharp:.1f}")


SECTIONS: Mapping[str, Callable[[Mapping[str, Results]], str]] = {
    "steps": steps,
    "rewards": rewards,
    "gan": gan,
    "tteo": tteo,
    "estimators": estimators,
    "softness": softness,
    "distilling": distilling,
    "emoji": report_of_emoji.section,
}


def kept(trials: Sequence[Trial]) -> Mapping[str, Results]:
    """The results of the trials that are done, by part and name."""
    measured: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for trial in trials:
        result = trial.result()
        if result is not None:
            measured[trial.part][trial.name] = result
    return measured


def pictures(trials: Sequence[Trial]) -> dict[str, str]:
    """The pictures beside the report, by file name."""
    return curves.files(kept(trials).get("gan", {}))


def report(trials: Sequence[Trial]) -> str:
    """The whole report, of the trials that are done."""
    measured = kept(trials)
    return "\n".join(
        [
            HEAD,
            claims(measured),
            *(SECTIONS[part](measured) for part in SECTIONS if part in measured),
        ]
    )
