"""`dimo tteo`: more compute for one image, spent on the student's input embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.options import (
    JsonOption,
    LocalDirOption,
    QuietOption,
    SeedOption,
    StudentArgument,
    command,
    example,
)

if TYPE_CHECKING:
    from dimo_cli.specs.tteo import TteoSpec

# The rows of the paper's Table 6: starts and iterations.
BUDGETS = {
    "bon8": (8, 0),
    "bon16": (16, 0),
    "bon32": (32, 0),
    "bon64": (64, 0),
    "4x2": (4, 2),
    "8x2": (8, 2),
    "4x4": (4, 4),
    "8x4": (8, 4),
}
EXAMPLES = example(
    'dimo tteo you/maskgen-1step --prompt "two red circles above a blue square"',
    "dimo tteo runs/meissonic --prompts-file prompts.txt --budget 4x2 --out optimized",
    'dimo tteo runs/meissonic --prompt "a red fox" --budget bon16 --reward clip=1',
)


@command
def tteo(
    student: StudentArgument,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to draw; repeatable.")
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts-file", help="Text file with one prompt per line.")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of results; finished prompts are kept.")
    ] = Path("tteo"),
    budget: Annotated[
        str, typer.Option("--budget", help=f"Starts x iterations: {', '.join(BUDGETS)}.")
    ] = "4x4",
    starts: Annotated[int | None, typer.Option("--starts", help="Instead of --budget.")] = None,
    iterations: Annotated[int | None, typer.Option("--iters", help="Instead of --budget.")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Step size of SGD; default: the teacher's.")
    ] = None,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            metavar="NAME=WEIGHT",
            help="What is to rise; repeatable.",
            autocompletion=completing.rewards,
        ),
    ] = None,
    stop_at: Annotated[
        float | None,
        typer.Option("--stop-at", help="Score at which a prompt needs no further update."),
    ] = None,
    decode: Annotated[
        str, typer.Option("--decode", help="The final image: soft codes, or argmax.")
    ] = "soft",
    seed: SeedOption = 0,
    local_dir: LocalDirOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Optimize the input of a one-step student for a prompt (TTEO), or take the best of N."""
    from dimo_cli.commands.refine import reward_weight
    from dimo_cli.errors import SpecError, did_you_mean
    from dimo_cli.specs.flags import spec_from_flags
    from dimo_cli.specs.tteo import TteoSpec

    if budget not in BUDGETS:
        raise SpecError(f"`--budget` is {budget!r}.", did_you_mean(budget, BUDGETS))
    values = {
        "starts": BUDGETS[budget][0] if starts is None else starts,
        "iterations": BUDGETS[budget][1] if iterations is None else iterations,
        "rewards": dict(reward_weight(text) for text in rewards or ()),
        "seed": seed,
        "stop_at": stop_at,
        "decode": decode,
        **({} if rate is None else {"learning_rate": rate}),
    }
    spec = spec_from_flags(TteoSpec, values, flag_names(values))
    wanted = [*(prompts or ()), *read_prompts(prompts_file)]
    if not wanted:
        raise SpecError("There is no prompt.", 'Add `--prompt "..."` or `--prompts-file FILE`.')
    carry_out(student, wanted, spec, folder, local_dir)


def flag_names(values: Mapping[str, Any]) -> dict[str, str]:
    """How the fields of a spec are called on the command line."""
    rewards = {f"rewards.{name}": f"--reward {name}" for name in values["rewards"]}
    own = {"iterations": "--iters", "learning_rate": "--rate", "stop_at": "--stop-at"}
    return {**own, **rewards}


def read_prompts(file: Path | None) -> list[str]:
    """The prompts of a file, one a line."""
    from dimo_cli.errors import SpecError

    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SpecError(f"`--prompts-file` is {file}, which is no UTF-8 text.") from None
    return [line.strip() for line in lines if line.strip()]


def carry_out(
    student_name: str, prompts: list[str], spec: TteoSpec, folder: Path, local_dir: Path | None
) -> None:
    """Optimize every prompt that is not finished, and show what came of all of them."""
    import json

    import numpy as np
    from rich.console import Group, RenderableType
    from rich.text import Text

    from dimo_cli.console import terminal
    from dimo_cli.console.output import out
    from dimo_cli.console.progress import counting
    from dimo_cli.files.locking import locked, refuse_if_locked
    from dimo_cli.files.writing import writing_to
    from dimo_cli.hub.store import HubStore
    from dimo_cli.rewards.registry import load_rewards
    from dimo_cli.sampling.tteo import folder_name, is_finished, keep, optimize_prompt, settled
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    refuse_if_locked(folder)
    place = str(local_dir) if local_dir else None
    student = open_student(student_name, LoadOptions(local_dir=place, say=out.note), True)
    spec = settled(student, spec)
    device = next(student.backbone.parameters()).device
    models = load_rewards(list(spec.rewards), HubStore(local_dir, say=out.note), device)
    rewards = {name: (models[name], weight) for name, weight in spec.rewards.items()}
    documents: list[dict[str, Any]] = []
    views: list[RenderableType] = []
    hint = "Mend that and run the same command again: finished prompts are kept."
    with (
        writing_to(folder, hint),
        locked(folder, say=out.note),
        counting(out, "optimize", len(prompts) * (spec.iterations + 1)) as advance,
    ):
        for prompt in prompts:
            target = folder / folder_name(prompt, student, spec)
            if is_finished(target):
                out.note(f"Finished already: {target}")
            else:
                outcome = optimize_prompt(student, rewards, prompt, spec, lambda _: advance(1))
                advance(spec.iterations + 1 - len(outcome.found.trace))
                keep(outcome, student, spec, target)
                if out.data.is_terminal:
                    pair = np.stack([outcome.before, outcome.after])
                    views += [Text(prompt), *terminal.shown(pair, 2, out.data.width)]
            found = json.loads((target / "outcome.json").read_text(encoding="utf-8"))
            documents.append({"folder": str(target), **found})
            views.append(Text(summary(found, spec)))
    out.result({"tteo": spec.model_dump(), "outcomes": documents}, Group(*views))


def summary(found: dict[str, Any], spec: TteoSpec) -> str:
    """One line about a prompt: scores and cost."""
    return (
        f"{found['prompt']}: {found['score_before']:.3f} -> best of {spec.starts} "
        f"{found['score_best_of_n']:.3f} -> {found['score_after']:.3f} "
        f"in {found['seconds']:.2f} s, {found['times_a_plain_sample']:.0f} x a plain sample"
    )
