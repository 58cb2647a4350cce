"""The prompts that a run trains on: of a file, of a dataset of the Hub, or the teacher's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dimo_cli.errors import MissingError, SpecError, size
from dimo_cli.files.lines import FileLines, decoded, lines_of
from dimo_cli.files.reading import MOST_PROMPTS, read_bytes
from dimo_cli.hub.datasets import is_reference
from dimo_cli.hub.prompts import look_for_prompts, pinned_prompts, prompt_file
from dimo_cli.sampling.left_out import tell_left_out
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.conditioning import PromptConditioner
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_skeleton

S = TypeVar("S", bound=DistillSpec)
Say = Callable[[str], None]
MOST_READ = 10_000  # prompts that are read before a run: of millions it would take minutes


def named_prompts(teacher: Teacher, spec: DistillSpec) -> str | None:
    """What the spec names for a text teacher; None where there is nothing to read."""
    name = spec.condition.prompts
    if not isinstance(teacher.conditioner, PromptConditioner):
        if name is not None:
            raise SpecError(
                f"`condition.prompts` is set, but `{teacher.name}` takes classes.", "Leave it out."
            )
        return None
    if name is None and not teacher.conditioner.dataset:  # of a teacher that brings none along
        raise SpecError(
            f"`{teacher.name}` is conditioned on prompts, and the run has none.",
            "Give a text file with one prompt per line: `--set condition.prompts=FILE`, or a "
            "dataset of the Hub: `--set condition.prompts=hub:OWNER/NAME:COLUMN`.",
        )
    return name


def attach_prompts(teacher: Teacher, spec: DistillSpec, say: Say = lambda line: None) -> None:
    """Give a text teacher the prompts that the run trains on."""
    name = named_prompts(teacher, spec)
    if name is not None:
        assert isinstance(teacher.conditioner, PromptConditioner)
        teacher.conditioner.dataset = prompts = prompts_at(name)
        tell_readable(teacher, name, prompts, say)


def tell_readable(teacher: Teacher, name: str, prompts: Sequence[str], say: Say) -> None:
    """Say which words the teacher leaves out of the first prompts; refuse what it cannot draw."""
    try:
        tell_left_out(teacher, prompts[:MOST_READ], say)
    except SpecError as error:
        raise SpecError(f"`condition.prompts` is `{name}`. {error.message}", error.hint) from None


def check_prompts(teacher: Teacher, spec: DistillSpec) -> list[str]:
    """Refuse prompts that are not there; of datasets it says what is to be downloaded."""
    name = named_prompts(teacher, spec)
    said: list[str] = []
    if name is not None and not is_reference(name):
        tell_readable(teacher, name, prompts_at(name), said.append)
    return said + [about(text) for text in (name, spec.monitor.prompts) if is_reference(text)]


def about(text: str) -> str:
    """One line about a dataset of the Hub that prompts are of."""
    dataset = look_for_prompts(text)
    state = "here" if dataset.is_here() else f"{size(dataset.bytes)} to download"
    return f"Prompts: {dataset.reference}, {state}."


def with_commits(spec: S, say: Say = lambda line: None) -> S:
    """The spec with each dataset of the Hub by its commit, so that a run goes on with the same."""
    if not load_skeleton(spec.teacher).takes_prompts:
        return spec
    return with_prompts(spec, lambda text: pinned_prompts(text, say))


def without_datasets(spec: S) -> S:
    """The spec without what it would download to know its prompts, to try a run for a moment."""
    return with_prompts(spec, lambda text: None)


def with_prompts(spec: S, change: Callable[[str], str | None]) -> S:
    """The spec with other words for each dataset of the Hub that it names."""
    changed: dict[str, Any] = {}
    if is_reference(own := spec.condition.prompts):
        changed["condition"] = spec.condition.model_copy(update={"prompts": change(own)})
    if is_reference(measured := spec.monitor.prompts):
        changed["monitor"] = spec.monitor.model_copy(update={"prompts": change(measured)})
    return spec.model_copy(update=changed)


def prompts_at(name: str) -> Sequence[str]:
    """The prompts of a text file, or of a dataset of the Hub."""
    if is_reference(name):
        return FileLines(prompt_file(name)[0])
    try:
        lines = lines_of(decoded(read_bytes(Path(name), MOST_PROMPTS)))
    except OSError as error:
        raise MissingError(
            f"`condition.prompts` is `{name}`, which cannot be read: {error.strerror}."
        ) from None
    except UnicodeDecodeError:
        raise SpecError(f"`condition.prompts` is `{name}`, which is no UTF-8 text.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise SpecError(f"`condition.prompts` is `{name}`, which holds no prompts.")
    return prompts
