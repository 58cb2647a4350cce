"""Small versions of the papers' ablations on the digits teacher, as one Markdown table.

    python examples/ablations_digits.py --out ablations.md          # about 35 minutes on 2 cores

Every variant is the preset `digits` with one setting changed. Finished runs are kept in a folder
beside the table and not run again, so an interrupted call goes on where it stopped.
"""

import json
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import typer

from dimo_cli.console.live import PlainView
from dimo_cli.evaluation.yardstick import Yardstick
from dimo_cli.runs.distill import distill
from dimo_cli.sampling.samplers import student_sampler
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec

TAKEN_AT = "z_theta(x_tilde) taken at (Fig. 12)"
CONTROL = "control of x_init (Table 6)"
PRESET = ("preset digits", "r_init 0.6, Jeffreys 0.3, noise 0, at x_init", "train.seed=0")
VARIANTS = [
    PRESET,
    *(("r_init", str(r), f"init.mask_ratio={r}") for r in (0.2, 0.4, 0.8, 1.0)),
    ("divergence", "Jeffreys, beta -0.2", "loss.divergence.beta=-0.2"),
    ("divergence", "FKL (beta 0)", "loss.divergence=fkl"),
    ("divergence", "RKL (beta 1)", "loss.divergence=rkl"),
    ("divergence", "Jensen-Shannon", "loss.divergence=js"),
    ("embedding noise", "0.1", "init.embed_noise=0.1"),
    (TAKEN_AT, "x_tilde", "loss.student_input=x_tilde"),
    (TAKEN_AT, "x_theta under the mask of x_init",
     "loss.student_input=x_tilde_init"),
    (CONTROL, "code of Gaussian noise", "init.control=encoded_noise"),
    (CONTROL, "fixed class token for masks", "init.control=fixed_class_token"),
    (CONTROL, "fixed image token for masks", "init.control=fixed_image_token"),
    (CONTROL, "random class tokens for images",
     "init.control=random_class_tokens"),
]  # fmt: skip
TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the unchanged preset


def measure(folder, sets, samples, temperatures):
    """Train one variant with one seed and measure its FID at each temperature."""
    torch.set_num_threads(1)
    if not (folder / "fid.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # a run cut short
        spec = resolve_spec(DistillSpec, preset="digits", sets=sets, environment={}).spec
        student = distill(spec, folder, PlainView(lambda line: None)).student
        device = next(student.backbone.parameters()).device
        yardstick, fids = Yardstick(spec, student.teacher, device), {}
        for temperature in temperatures:
            sampler, protocol = student_sampler(student, temperature)
            score = yardstick.measure(sampler, images=samples, protocol=protocol)
            fids[str(temperature)] = score.value
        (folder / "fid.json").write_text(json.dumps(fids))
    return json.loads((folder / "fid.json").read_text())


def main(out: Path = Path("ablations.md"), steps: int = 400, samples: int = 2000,
         seeds: list[int] = (0, 1), only: str = "", processes: int = 2) -> None:  # fmt: skip
    """Run all variants, or those whose group starts with ONLY, and write the table."""
    quick = ["monitor.fid_every=0", "monitor.table_samples=0", f"train.steps={steps}"]
    chosen = [v for v in VARIANTS if v is PRESET or v[0].startswith(only)]
    with ProcessPoolExecutor(processes) as pool:
        waiting = {}
        for variant in chosen:
            sweep = TEMPERATURES if variant is PRESET else (1.0,)
            for seed in seeds:
                slug = "".join(c if c.isalnum() else "-" for c in f"{variant[1]}-{seed}-{steps}")
                sets = [variant[2], *quick, f"train.seed={seed}"]
                job = pool.submit(measure, out.with_suffix("") / slug, sets, samples, sweep)
                waiting.setdefault(variant, []).append(job)
        fids = {variant: [job.result() for job in jobs] for variant, jobs in waiting.items()}
    rows = [(group, name, [f["1.0"] for f in fids[group, name, s]]) for group, name, s in chosen]
    sweep = [("sampling temperature", t, [f[str(t)] for f in fids[PRESET]]) for t in TEMPERATURES]
    lines = [f"FID of {samples} samples after {steps} steps.", ""]
    lines += [f"| what | variant | mean FID | seeds {list(seeds)} |", "|---|---|---|---|"]
    for group, name, values in [rows[0], *sweep, *rows[1:]]:
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {group} | {name} | {statistics.mean(values):.3f} | {each} |")
    out.write_text("\n".join(lines) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
