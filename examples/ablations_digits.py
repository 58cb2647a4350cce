"""Small versions of the papers' ablations on the digits teacher, as one Markdown table.

    python examples/ablations_digits.py --out ablations.md            # about an hour on 2 cores
    python examples/ablations_digits.py --only r_init --seeds 0 --steps 300

Every variant is the preset `digits` with one thing changed. Finished runs are kept beside the
table and not run again, so an interrupted call goes on where it stopped.
"""

import argparse
import json
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from dimo_cli.console.live import PlainView
from dimo_cli.metrics.fid import FidMeter
from dimo_cli.runs import distill, student_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec

PRESET = ("preset digits", "r_init 0.6, Jeffreys 0.3, noise 0, at x_init")
GROUPS = {
    "r_init": {f"{r}": [f"init.mask_ratio={r}"] for r in (0.2, 0.4, 0.8, 1.0)},
    "divergence": {
        "Jeffreys, beta -0.2": ["loss.divergence.beta=-0.2"],
        "FKL (beta 0)": ["loss.divergence=fkl"],
        "RKL (beta 1)": ["loss.divergence=rkl"],
        "Jensen-Shannon": ["loss.divergence=js"],
    },
    "embedding noise": {"0.1": ["init.embed_noise=0.1"]},
    "z_theta(x_tilde) taken at (Fig. 12)": {
        "x_tilde": ["loss.student_input=x_tilde"],
        "x_theta under the mask of x_init": ["loss.student_input=x_tilde_init"],
    },
    "control of x_init (Table 6)": {
        "code of Gaussian noise": ["init.control=encoded_noise"],
        "fixed class token for masks": ["init.control=fixed_class_token"],
        "fixed image token for masks": ["init.control=fixed_image_token"],
        "random class tokens for images": ["init.control=random_class_tokens"],
    },
}
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def measure(job):
    """Train one variant with one seed and measure its FID at each temperature."""
    folder, sets, temperatures, args = job
    torch.set_num_threads(1)
    result = folder / "fid.json"
    if not result.exists():
        shutil.rmtree(folder, ignore_errors=True)  # a run cut short
        spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
        student = distill(spec, folder, PlainView(lambda line: None)).student
        meter, fids = FidMeter(student.teacher), {}
        for temperature in temperatures:
            sampler, protocol = student_sampler(student, temperature)
            score = meter.measure(sampler, images=args.samples, seed=20_000, protocol=protocol)
            fids[str(temperature)] = score.value
        result.write_text(json.dumps(fids))
    print(f"done: {folder}", flush=True)
    return json.loads(result.read_text())


def jobs_of(variant, sets, args):
    """One job per seed; only the unchanged preset is swept over temperatures."""
    quick = ["monitor.fid_every=0", "monitor.table_samples=0", f"train.steps={args.steps}"]
    name = "".join(c if c.isalnum() else "-" for c in "-".join(variant))
    sweep = TEMPERATURES if variant == PRESET else (1.0,)
    for seed in args.seeds:
        folder = args.out.with_suffix("") / f"{name}-seed{seed}-steps{args.steps}"
        yield folder, [*sets, *quick, f"train.seed={seed}"], sweep, args


def row(what, variant, values):
    """A row of the table."""
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"| {what} | {variant} | {statistics.mean(values):.3f} | {each} |"


def main(args):
    chosen = {name: group for name, group in GROUPS.items() if name.startswith(args.only)}
    variants = {PRESET: []}
    variants |= {(g, v): sets for g, group in chosen.items() for v, sets in group.items()}
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [job for variant, sets in variants.items() for job in jobs_of(variant, sets, args)]
        fids = iter(list(pool.map(measure, jobs)))
    lines = [f"FID of {args.samples} samples after {args.steps} steps.", ""]
    lines += [f"| what | variant | mean FID | seeds {args.seeds} |", "|---|---|---|---|"]
    for variant in variants:
        results = [next(fids) for _ in args.seeds]
        lines.append(row(*variant, [result["1.0"] for result in results]))
        if variant == PRESET:
            sweep = [(str(t), [result[str(t)] for result in results]) for t in TEMPERATURES]
            lines += [row("sampling temperature", name, values) for name, values in sweep]
    args.out.write_text("\n".join(lines) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("ablations.md"))
    parser.add_argument("--only", default="", help="a group of variants, by the start of its name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    main(parser.parse_args())
