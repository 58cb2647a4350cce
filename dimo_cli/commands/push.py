"""`dimo push`: a student to the Hugging Face Hub, with a full model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimo_cli.commands import completing
from dimo_cli.commands.options import JsonOption, LocalDirOption, QuietOption, command, example

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dimo_cli.publishing.package import Package
    from dimo_cli.publishing.upload import Pushed
    from dimo_cli.specs.push import PushSpec

EXAMPLES = example(
    "dimo push runs/digits you/digits-1step --dry-run",
    "dimo push runs/maskbit you/maskbit-1step --private --metrics fid.json --tag v1",
    "dimo push runs/maskbit lab/maskbit-1step --create-pr",
    "dimo push runs/maskbit you/maskbit-1step --watts 700 --grid-intensity 56",
)


@command
def push(
    target: Annotated[
        str,
        typer.Argument(
            help="Run folder (its numbers and settings go along) or student.",
            autocompletion=completing.students,
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where to.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who sees it; default: as your account is set."),
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Propose the change as a pull request.")
    ] = False,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Push to this branch, made if need be.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag what is pushed.")] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", help="JSON of `dimo eval ... --json` for the card; repeatable."),
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option("--license-name", help="Of a teacher's license that dimo does not know."),
    ] = None,
    license_link: Annotated[
        str | None, typer.Option("--license-link", help="Where its terms can be read.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="Of training; default: as the run recorded.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", help="Default: as the run recorded.")
    ] = None,
    watts: Annotated[
        float | None, typer.Option("--watts", help="Assumed power of all devices together.")
    ] = None,
    grid_intensity: Annotated[
        float | None,
        typer.Option("--grid-intensity", help="Assumed g CO2eq per kWh, to estimate emissions."),
    ] = None,
    local_dir: LocalDirOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the student, show card and files; send nothing."),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Publish a student on the Hugging Face Hub; a second time only what has changed is sent."""
    from dimo_cli.specs.flags import spec_from_flags
    from dimo_cli.specs.push import PushSpec

    values = {
        "target": target,
        "repository": repository,
        "private": private,
        "create_pr": create_pr,
        "branch": branch,
        "tag": tag,
        "metrics": tuple(metrics or ()),
        "license_name": license_name,
        "license_link": license_link,
        "footprint": {
            "hours": hours,
            "hardware": hardware,
            "watts": watts,
            "grid_intensity": grid_intensity,
        },
    }
    publish(spec_from_flags(PushSpec, values, {"target": "TARGET"}), local_dir, dry_run)


def publish(spec: PushSpec, local_dir: Path | None, dry_run: bool) -> None:
    """Prepare the student, then show or send it."""
    import tempfile

    from rich.text import Text

    from dimo_cli.console.output import out
    from dimo_cli.publishing.package import package_document, prepare
    from dimo_cli.publishing.upload import push_files
    from dimo_cli.students.student import LoadOptions

    options = LoadOptions(local_dir=str(local_dir) if local_dir else None, say=out.note)
    with tempfile.TemporaryDirectory() as workplace:
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
        out.hint(f"Sample it with `dimo sample --student {spec.repository}{at}`.")


def show_progress_in_terminals() -> None:
    """The Hub's client draws bars, which only a terminal can show."""
    from huggingface_hub.utils import disable_progress_bars

    from dimo_cli.console.output import out

    if out.quiet or not out.talk.is_terminal:
        disable_progress_bars()


def plan_view(spec: PushSpec, package: Package) -> RenderableType:
    """Card and files, as a person reads them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from dimo_cli.commands.plan import size

    table = Table("file", "size", "sha256", box=None, header_style="bold")
    for file in package.files:
        table.add_row(file.name, size(file.size), file.sha256[:16])
    place = spec.branch or ("a pull request" if spec.create_pr else "main")
    seen = {None: "", True: ", private", False: ", public"}[spec.private]
    tagged = f", tagged {spec.tag}" if spec.tag else ""
    where = f"\nTo {spec.repository}, {place}{seen}{tagged}; nothing was sent."
    return Group(Text(package.card), table, Text(where))


def outcome(pushed: Pushed) -> dict[str, Any]:
    """What was done, for machines."""
    from dataclasses import asdict

    return asdict(pushed)


def sentence(pushed: Pushed) -> str:
    """What was done, in a line."""
    if pushed.pull_request:
        done = f"Proposed: {pushed.pull_request}"
    elif pushed.uploaded:
        done = f"Pushed {', '.join(pushed.uploaded)} to {pushed.url}"
    else:
        done = f"Nothing has changed: {pushed.url} has this student already"
    return f"{done} (commit {pushed.commit[:12]}{f', tag {pushed.tag}' if pushed.tag else ''})"
