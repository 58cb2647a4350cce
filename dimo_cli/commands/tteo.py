"""`dimo tteo`: more compute for one image, spent on the student's input embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import (
    LocalDirOption,
    PromptsFileOption,
    StudentArgument,
    read_prompts,
    read_weights,
)
from dimo_cli.commands.parameters import Fields
from dimo_cli.console.output import out
from dimo_cli.console.progress import counting
from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.files.locking import locked, refuse_if_locked
from dimo_cli.files.writing import writing_to
from dimo_cli.rewards.registry import load_rewards
from dimo_cli.specs.flags import Given
from dimo_cli.specs.tteo import TteoSpec

if TYPE_CHECKING:
    from dimo_cli.students.student import Student

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
app = typer.Typer()
EXAMPLES = """
dimo tteo you/maskgen-1step --prompt "two red circles above a blue square"
dimo tteo runs/meissonic --prompts-file prompts.txt --budget 4x2 --out optimized
dimo tteo runs/meissonic --prompts-file hub:you/prompts:text --budget 4x2 --out optimized
dimo tteo runs/meissonic --prompt "a red fox" --budget bon16 --reward clip=1
"""
FIELDS = Fields(
    without=("momentum", "clip_norm", "temperature"),
    said={
        "starts": "Initial sequences N; default: as --budget says",
        "iterations": "Updates K of each, 0: best of N alone; default: as --budget says",
        "learning_rate": "Step size of SGD; default: the teacher's",
    },
)


@command(app, "tteo", EXAMPLES)
def tteo(
    *,
    student: StudentArgument,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to draw; repeatable.")
    ] = None,
    prompts_file: PromptsFileOption = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of results; finished prompts are kept.")
    ] = Path("tteo"),
    budget: Annotated[
        str, typer.Option("--budget", help=f"Starts x iterations: {', '.join(BUDGETS)}.")
    ] = "4x4",
    asked: Annotated[Given[TteoSpec], FIELDS],
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse prompts with words that the teacher leaves out."),
    ] = False,
    local_dir: LocalDirOption = None,
) -> None:
    """Optimize the input of a one-step student for a prompt (TTEO), or take the best of N."""
    if budget not in BUDGETS:
        raise SpecError(f"`--budget` is {budget!r}.", did_you_mean(budget, BUDGETS))
    starts, iterations = BUDGETS[budget]
    spec = asked.spec(
        {
            "starts": asked.get("starts", starts),
            "iterations": asked.get("iterations", iterations),
            "rewards": read_weights(asked.get("rewards")),
        }
    )
    wanted = [*(prompts or ()), *read_prompts(prompts_file)]
    if any(not prompt.strip() for prompt in wanted):
        raise SpecError("A prompt is empty.", "Say what to draw with each `--prompt`.")
    if not wanted:
        raise SpecError("There is no prompt.", 'Add `--prompt "..."` or `--prompts-file FILE`.')
    refuse_if_locked(folder)
    opened, left_out = open_for(student, wanted, local_dir, strict)
    document, view = optimize_and_save(
        opened, wanted, spec, folder, local_dir, origins_of(asked, budget)
    )
    told = {"left_out": list(left_out)} if left_out else {}
    out.result({**document, **told}, view)


def origins_of(asked: Given[TteoSpec], budget: str) -> dict[str, str]:
    """Who set which value."""
    return {
        **dict.fromkeys(("starts", "iterations"), f"--budget {budget}"),
        **dict.fromkeys(("learning_rate", "rewards"), "what suits the teacher"),
        **{path: f"flag {asked.flags[path]}" for path in asked.values},
    }


def open_for(
    name: str, prompts: list[str], local_dir: Path | None, strict: bool
) -> tuple[Student, tuple[str, ...]]:
    """The student, and the words of the prompts that its teacher leaves out."""
    from dimo_cli.sampling.left_out import tell_left_out
    from dimo_cli.students.published import open_student
    from dimo_cli.students.student import LoadOptions

    place = str(local_dir) if local_dir else None
    student = open_student(name, LoadOptions(local_dir=place, say=out.note), True)
    return student, tell_left_out(student.teacher, prompts, out.note, strict)


def optimize_and_save(
    student: Student,
    prompts: list[str],
    spec: TteoSpec,
    folder: Path,
    local_dir: Path | None,
    origins: dict[str, str],
) -> tuple[dict[str, Any], RenderableType]:
    """Optimize every prompt that is not finished; what came of all of them, and how it is shown."""
    import numpy as np

    from dimo_cli.console import terminal
    from dimo_cli.hub.store import HubStore
    from dimo_cli.sampling.tteo import folder_name, keep, optimize_prompt, read_outcome, settled

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
            if found := read_outcome(target):
                out.note(f"Finished already: {target}")
            else:
                outcome = optimize_prompt(student, rewards, prompt, spec, lambda _: advance(1))
                advance(spec.iterations + 1 - len(outcome.found.trace))
                found = keep(outcome, student, spec, target, origins)
                if out.data.is_terminal:
                    pair = np.stack([outcome.before, outcome.after])
                    views += [Text(prompt), *terminal.shown(pair, 2, out.data.width)]
            documents.append({"folder": str(target), **found})
            views.append(Text(summary(found, spec)))
    return {"tteo": spec.model_dump(), "outcomes": documents}, Group(*views)


def summary(found: dict[str, Any], spec: TteoSpec) -> str:
    """One line about a prompt: scores and cost."""
    return (
        f"{found['prompt']}: {found['score_before']:.3f} -> best of {spec.starts} "
        f"{found['score_best_of_n']:.3f} -> {found['score_after']:.3f} "
        f"in {found['seconds']:.2f} s, {found['times_a_plain_sample']:.0f} x a plain sample"
    )
