"""What `dimo tteo` left in a folder, read without trust."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimo_cli.files.pictures import open_picture
from dimo_cli.files.untrusted import parse_json
from dimo_cli.reporting.charts import Chart, Series
from dimo_cli.reporting.collect import Setting, parsed_file, settings_of
from dimo_cli.reporting.inside import own_files
from dimo_cli.reporting.pictures import Picture, embed
from dimo_cli.run_folder.log import is_number
from dimo_cli.specs.tteo import TteoSpec

OUTCOME = "outcome.json"
UNKNOWN_ORIGIN = "a flag, or what suits the teacher"  # of pictures that do not say it
NUMBERS = ("score_before", "score_best_of_n", "score_after", "seconds")


@dataclass(frozen=True)
class PromptRecord:
    """One prompt before and after."""

    prompt: str
    outcome: dict[str, Any]
    pictures: list[Picture]
    settings: list[Setting]
    student: str

    def chart(self) -> Chart | None:
        """The score of each start by iteration; only the chosen start and the range of the rest."""
        trace = self.outcome["trace"]
        if len(trace) < 2:
            return None
        chosen = int(self.outcome.get("start", 0))
        series = [Series("chosen start", [(i, row[chosen]) for i, row in enumerate(trace)])]
        if len(trace[0]) > 1:
            series.append(Series("best start", [(i, max(row)) for i, row in enumerate(trace)]))
            series.append(Series("worst start", [(i, min(row)) for i, row in enumerate(trace)]))
        return Chart("Score by iteration", series, "healthy: rises", x_name="iteration")


@dataclass
class TteoRecord:
    """The results of a folder."""

    name: str
    prompts: list[PromptRecord] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def is_tteo(folder: Path) -> bool:
    """Whether a folder holds results of `dimo tteo`."""
    return bool(outcome_files(folder)) and not (folder / "run.yaml").exists()


def outcome_files(folder: Path) -> list[Path]:
    """The results in a folder: its own, or one in each folder below."""
    own = folder / OUTCOME
    return [own] if own.is_file() else sorted(folder.glob(f"*/{OUTCOME}"))


def collect_tteo(folder: Path) -> TteoRecord:
    """Read the results of a folder."""
    found = TteoRecord(folder.resolve().name)
    for path in own_files(folder, outcome_files(folder), found.damaged):
        record = read_prompt(path, folder, found.damaged)
        if record is None:
            found.damaged.append(f"{path.parent.name}/{OUTCOME} cannot be read.")
        else:
            found.prompts.append(record)
            if len(record.pictures) < 2:
                found.missing.append(f"{path.parent.name}: pictures are missing.")
    for path in sorted(folder.glob("*/before.png")):
        if not (path.parent / OUTCOME).exists():
            found.missing.append(f"{path.parent.name} is unfinished.")
    return found


def read_prompt(file: Path, folder: Path, told: list[str]) -> PromptRecord | None:
    """The result of a prompt, in a folder of several; None if it makes no sense."""
    outcome = parsed_file(file)
    if not is_outcome(outcome):
        return None
    files = own_files(folder, [file.with_name(f"{n}.png") for n in ("before", "after")], told)
    pictures = [
        picture
        for path in files
        if (picture := embed(path, path.stem, f"{path.stem}: {outcome['prompt']}"))
    ]
    after = file.with_name("after.png")
    origins = origins_in(outcome)
    settings, student = facts_of(after, origins) if after in files else ([], "")
    return PromptRecord(str(outcome["prompt"]), outcome, pictures, settings, student)


def is_outcome(outcome: Any) -> bool:
    """Whether this is what `dimo tteo` writes about a prompt."""
    if not (isinstance(outcome, dict) and isinstance(outcome.get("prompt"), str)):
        return False
    trace, start = outcome.get("trace"), outcome.get("start", 0)
    if not (isinstance(trace, list) and trace and all(isinstance(row, list) for row in trace)):
        return False
    width = len(trace[0])
    return (
        all(is_number(outcome.get(key)) for key in NUMBERS)
        and isinstance(start, int)
        and 0 <= start < width
        and all(len(row) == width and all(is_number(value) for value in row) for row in trace)
    )


def facts_of(path: Path, origins: dict[str, str]) -> tuple[list[Setting], str]:
    """The settings, with who set them, and the student's hash that a picture carries."""
    try:
        with open_picture(path) as image:
            image.load()
            info = image.info
        spec = TteoSpec.model_validate(parse_json(info["dimo.tteo"]))
    except Exception:  # of whichever decoder, and of whatever the picture tells
        return [], ""
    default = TteoSpec().model_dump()
    changed = {key for key, value in spec.model_dump().items() if value != default[key]}
    known = dict.fromkeys(changed, UNKNOWN_ORIGIN) | origins
    return settings_of(spec, known), str(info.get("dimo.student", ""))


def origins_in(outcome: dict[str, Any]) -> dict[str, str]:
    """Who set which value, as the outcome says it; nothing where it does not, or makes no sense."""
    found = outcome.get("origins")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}
