"""The report: every claim of both papers that was tried, with its interval and its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.soft_dimo.gan import ARMS
from benchmarks.soft_dimo.intervals import Interval, mcnemar, paired_gain
from benchmarks.soft_dimo.rewards import ESTIMATORS, RATIOS
from benchmarks.soft_dimo.shapes import SEEDS, STRONG, WATCHING, WEAK
from benchmarks.soft_dimo.steps import TEACHER_STEPS, TEMPERATURES
from benchmarks.soft_dimo.trials import Trial, unpacked
from benchmarks.soft_dimo.tteo import BUDGETS

HEAD = """# Soft-Di[M]O in the small world

Made by `python -m benchmarks.soft_dimo`, which keeps every number in
`benchmarks/results/soft_dimo/`. The teachers are the embedded `digits` and `shapes`; the papers'
figures are of MaskGit and MaskBit on ImageNet and of MaskGen-L, so directions and ratios compare,
not numbers. Intervals are of 95 %, by a paired bootstrap over prompts and seeds. What is not
measured yet is left out.

`shapes_preference` is trained on pictures of teacher and student that the verifier judged, so a
gain that the verifier sees after training for it is not independent of it. `shapes_witness`,
another network from other scenes and other pictures, never gives a gradient; it learned from the
same verifier, though.
"""
Results = Mapping[str, Mapping[str, Any]]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, or the only value."""
    if len(values) == 1:
        return f"{values[0]:.3f} (1 seed)"
    return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)} seeds)"


def seeds_of(found: Results, name: str) -> dict[int, Mapping[str, Any]]:
    """The results of a trial by seed."""
    return {seed: found[f"{name}-{seed}"] for seed in SEEDS if f"{name}-{seed}" in found}


def gain(found: Results, other: Results, name: str, base: str) -> Interval | None:
    """The verifier's paired gain of one trial over another, over the seeds that both have."""
    after, before = seeds_of(found, name), seeds_of(other, base)
    both = sorted(after.keys() & before.keys())
    if not both:
        return None
    return paired_gain(
        [unpacked(after[seed]["true"]) for seed in both],
        [unpacked(before[seed]["true"]) for seed in both],
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
    found, base, rows = measured["rewards"], measured.get("steps", {}), []
    start = seeds_of(base, "student-T1.0")
    for judge in (STRONG, WEAK):
        for beside in ("dimo", "alone"):
            for estimator in ESTIMATORS:
                for ratio in RATIOS:
                    name = f"{judge}-{estimator}-{ratio}-{beside}"
                    arms = seeds_of(found, name)
                    both = sorted(arms.keys() & start.keys())
                    if not both:
                        continue
                    watched = mean(arms[s][WATCHING] - start[s][WATCHING] for s in both)
                    varied = mean(arms[s]["diversity"] / start[s]["diversity"] for s in both)
                    row = [judge, beside, estimator, str(ratio)]
                    row += [str(gain(found, base, name, "student-T1.0"))]
                    rows.append([*row, f"{watched:+.2f}", f"{varied:.2f}", str(len(both))])
    head = ["reward", "Di[M]O", "estimator", "norm ratio", "verifier's gain", "watching judge"]
    return (
        "## Rewards\n\nThe shipped student before and after 300 steps, T = 1, the same prompts; "
        "the ratio is that of weighted gradient norms at the logits.\n\n"
        + table([*head, "diversity, of the start's", "seeds"], rows)
    )


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
    )


def fid_of(values: Mapping[str, float]) -> float:
    """The FID among the values of one evaluation."""
    return next(value for name, value in values.items() if name.startswith("fid"))


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
        rows = [[name, f"{value:.3g}"] for name, value in certain.items()]
        text += "\nWhere the difference to drawn tokens is:\n\n" + table(["what", "value"], rows)
    return text


SECTIONS: Mapping[str, Callable[[Mapping[str, Results]], str]] = {
    "steps": steps,
    "rewards": rewards,
    "gan": gan,
    "tteo": tteo,
    "estimators": estimators,
    "softness": softness,
}


def report(trials: Sequence[Trial]) -> str:
    """The whole report, of the trials that are done."""
    measured: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for trial in trials:
        result = trial.result()
        if result is not None:
            measured[trial.part][trial.name] = result
    return "\n".join([HEAD, *(SECTIONS[part](measured) for part in SECTIONS if part in measured)])
