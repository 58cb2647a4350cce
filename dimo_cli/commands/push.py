"""`dimo push`: a student to the Hugging Face Hub, with a full model card."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimo_cli.commands.frame import command
from dimo_cli.commands.options import LocalDirOption
from dimo_cli.console import next_steps
from dimo_cli.console.output import out
from dimo_cli.console.plain import one_line
from dimo_cli.errors import size
from dimo_cli.files.writing import writing_to
from dimo_cli.specs.flags import Given
from dimo_cli.specs.push import PushSpec

if TYPE_CHECKING:
    from dimo_cli.publishing.package import Package
    from dimo_cli.publishing.upload import Pushed

app = typer.Typer()
EXAMPLES = """
dimo push runs/digits you/digits-1step --dry-run
dimo push runs/maskbit you/maskbit-1step --private --metrics fid.json --tag v1
dimo push runs/maskbit lab/maskbit-1step --create-pr
dimo push runs/maskbit you/maskbit-1step --watts 700 --grid-intensity 56
"""


@command(app, "push", EXAMPLES)
def push(
    asked: Given[PushSpec],
    local_dir: LocalDirOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the student, show card and files; send nothing."),
    ] = False,
) -> None:
    """Publish a student on the Hugging Face Hub; a second time only what has changed is sent."""
    publish(asked.spec(), local_dir, dry_run)


def publish(spec: PushSpec, local_dir: Path | None, dry_run: bool) -> None:
    """Prepare the student, then show or send it."""
    from dimo_cli.publishing.package import package_document, prepare
    from dimo_cli.publishing.upload import push_files
    from dimo_cli.students.student import LoadOptions

    options = LoadOptions(local_dir=str(local_dir) if local_dir else None, say=out.note)
    with tempfile.TemporaryDirectory() as workplace:
        with writing_to(Path(workplace), "Make room there, or set TMPDIR to a folder with room."):
            package = prepare(spec, Path(workplace), options)
        document = {"repository": spec.repository, **package_document(package)}
        if dry_run:
            out.result({**document, "card": package.card}, plan_view(spec, package))
            return
        show_progress_in_terminals()
        pushed = push_files(package.files, spec, package.title, out.note)
    out.result({**document, **outcome(pushed)}, Text(sentence(pushed)))
    if not pushed.pull_request:
        at = "" if pushed.revision == "main" else f"@{pushed.revision}"
        example = package.facts.example
        prompt = example if isinstance(example, str) else None
        drawn = next_steps.sample(f"{spec.repository}{at}", prompt)
        out.hint(f"Sample it with {drawn}.")


def show_progress_in_terminals() -> None:
    """The Hub's client draws bars, which only a terminal can show."""
    from huggingface_hub.utils import disable_progress_bars

    if out.quiet or not out.talk.is_terminal:
        disable_progress_bars()


def plan_view(spec: PushSpec, package: Package) -> RenderableType:
    """Card and files, as a person reads them."""
    table = Table("file", "size", "sha256", "carries", box=None, header_style="bold")
    for file in package.files:
        carries = one_line(", ".join(file.carries)) or "no metadata"
        table.add_row(file.name, size(file.size), file.sha256[:16], carries)
    place = spec.branch or ("a pull request" if spec.create_pr else "main")
    seen = {None: "", True: ", private", False: ", public"}[spec.private]
    tagged = f", tagged {spec.tag}" if spec.tag else ""
    where = f"\nTo {spec.repository}, {place}{seen}{tagged}; nothing was sent."
    return Group(Text(package.card), table, Text(where))


def outcome(pushed: Pushed) -> dict[str, Any]:
    """What was done, for machines."""
    return asdict(pushed)


def sentence(pushed: Pushed) -> str:
    """What was done, in a line."""
    if pushed.pull_request:
        done = f"Proposed: {pushed.pull_request}"
    elif pushed.uploaded:
        done = f"Pushed {', '.join(pushed.uploaded)} to {pushed.url}"
    else:
        done = f"Nothing has changed: {pushed.url} has this student already"
    if pushed.removed:
        done += f"; removed {', '.join(pushed.removed)}, which another student left there"
    return f"{done} (commit {pushed.commit[:12]}{f', tag {pushed.tag}' if pushed.tag else ''})"
