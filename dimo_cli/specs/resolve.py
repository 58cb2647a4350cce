"""From preset, file, environment and flags to one validated spec that knows where it came from.

Later sources win: preset < `--spec` file < `DIMO_*` variables < `--set`. Each value keeps its
origin, so that messages and `--dry-run` can say which line or flag it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from dimo_cli.errors import SpecError, did_you_mean
from dimo_cli.files.reading import MOST_SPEC, read_text
from dimo_cli.files.yaml_text import parse_yaml
from dimo_cli.specs.base import Spec
from dimo_cli.specs.explain import default_of, explain, types_at

S = TypeVar("S", bound=Spec)
Tree = dict[str, Any]

MOST_DEPTH = 32  # of groups in groups; no setting is nearly as deep
MOST_PROBLEMS = 20  # that a person wants to read at once

# Variables that steer the program and are no settings of a run.
PROGRAM_VARIABLES = frozenset(
    {"DIMO_DEBUG", "DIMO_GOLDEN", "DIMO_IMAGES", "DIMO_INCEPTION", "DIMO_REPORTS"}
)


@dataclass(frozen=True)
class Plan(Generic[S]):
    """A validated spec and the origin of every value that somebody set."""

    spec: S
    origins: Mapping[str, str]


@dataclass
class Layers:
    """The raw values merged so far, and who set each leaf."""

    model: type[Spec]
    values: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)
    """The paths right below each path, of those that have or had an origin."""

    def set(self, path: str, value: Any, origin: str) -> None:
        """Set one dotted path; mappings are merged key by key, except where keys are free names."""
        if isinstance(value, dict) and value and path and not types_at(self.model, path):
            self._set_names(path, value, origin)
            return
        if isinstance(value, dict) and value:
            ordered = sorted(value.items(), key=lambda item: item[0] != "kind")  # kind first
            for key, item in ordered:
                self.set(f"{path}.{key}" if path else str(key), item, origin)
            return
        if not path:
            return  # an empty document sets nothing
        group, _, last = path.rpartition(".")
        node = self._open(group)
        if last == "kind" and self._is_another_kind(group, node, value):
            node.clear()  # the settings of one kind mean nothing to another
            self._forget(group)
        self._forget(path)
        node[last] = value
        self._note(path, origin)

    def _set_names(self, path: str, values: Tree, origin: str) -> None:
        """Set a mapping whose keys are free names, such as `hps_v2.1`: a dot there is no path.

        It takes the place of the one before: whoever names rewards wants no others.
        """
        node = self._open(path)
        node.clear()
        self._forget(path)
        for name, value in values.items():
            node[str(name)] = value
            self._note(f"{path}.{name}", origin)

    def _is_another_kind(self, group: str, node: Tree, kind: Any) -> bool:
        has_variants = len(types_at(self.model, group)) > 1
        return has_variants and node.get("kind", default_of(self.model, f"{group}.kind")) != kind

    def _open(self, group: str) -> Tree:
        """The mapping of a group, made if need be; a short form there is spelled out."""
        node = self.values
        path = ""
        check_depth(group)
        for key in group.split(".") if group else []:
            path = f"{path}.{key}" if path else key
            child = node.get(key)
            if isinstance(child, str):  # a bare word stands for its kind
                child = {"kind": child}
            elif not isinstance(child, dict):  # a number stood for a value that is now given
                child = {}
                self._forget(path)
            node[key] = child
            node = child
        return node

    def _note(self, path: str, origin: str) -> None:
        """Write down the origin of a path, where `_forget` finds it without a search."""
        check_depth(path)
        self.origins[path] = origin
        while group := path.rpartition(".")[0]:
            is_known = group in self.below
            self.below.setdefault(group, []).append(path)
            if is_known:
                return
            path = group

    def _forget(self, path: str) -> None:
        """Forget the origins of a path and of all below it."""
        self.origins.pop(path, None)
        for known in self.below.pop(path, ()):
            self._forget(known)


def check_depth(path: str) -> None:
    """Refuse a path of more groups than any setting is in."""
    if path.count(".") > MOST_DEPTH:
        raise SpecError(f"`{path[:60]}...` is deeper than any setting is.")


def resolve_spec(
    model: type[S],
    *,
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    base: tuple[str, Tree] | None = None,
    flags: Mapping[str, Tree] | None = None,
) -> Plan[S]:
    """Merge all sources into a validated spec; every problem is reported at once.

    `base` is an origin and values that come after the preset and before everything else; `flags`
    are the values of a command's own flags by origin, which only `--set` overrules.
    """
    layers = Layers(model)
    from_file = load_yaml(file) if file else None
    if from_file and (named := from_file.values.pop("preset", None)) is not None:
        if preset not in (None, str(named)):
            raise SpecError(
                f"`{file}` is laid over the preset `{named}`, and `--preset` is `{preset}`.",
                "Leave `--preset` out, or change the file.",
            )
        preset = str(named)
    if preset is not None:
        path = preset_path(preset)
        refuse_other_kind(model, preset)
        add_yaml(layers, load_yaml(path), f"preset {preset}, line")
    if base is not None:
        layers.set("", base[1], base[0])
    if from_file and file:
        add_yaml(layers, from_file, f"{file}, line")
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith("DIMO_") and name not in PROGRAM_VARIABLES:
            path_in_spec = name.removeprefix("DIMO_").lower().replace("__", ".")
            layers.set(
                path_in_spec, parse_value(value, f"environment {name}"), f"environment {name}"
            )
    for origin, values in (flags or {}).items():
        layers.set("", values, origin)
    for assignment in sets:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip() or ".." in f".{key.strip()}.":
            raise SpecError(
                f"`--set {assignment}` is not of the form key=value.",
                "Write it like `--set train.steps=500`.",
            )
        layers.set(key.strip(), parse_value(text, f"--set {key}"), f"flag --set {key.strip()}")
    return validate(model, layers)


def validate(model: type[S], layers: Layers) -> Plan[S]:
    """Turn merged values into a spec, or into sentences about each mistake."""
    try:
        return Plan(model.model_validate(layers.values), layers.origins)
    except ValidationError as error:
        found = error.errors()
        problems = [
            explain(model, layers.values, layers.origins, item) for item in found[:MOST_PROBLEMS]
        ]
        if len(found) > MOST_PROBLEMS:
            problems.append(f"And {len(found) - MOST_PROBLEMS:,} more.")
    raise SpecError(
        "\n".join(dict.fromkeys(problems)),
        "Run `dimo spec schema` to see every key, or `dimo presets show digits` for an example.",
    )


@dataclass
class YamlFile:
    """The values of a YAML file and the line of each leaf."""

    values: Tree
    lines: dict[str, int]


def load_yaml(path: Path) -> YamlFile:
    """Read a YAML mapping with the line numbers of its leaves."""
    try:
        values, root = parse_yaml(read_text(path, MOST_SPEC))
    except FileNotFoundError:
        raise SpecError(
            f"No such spec file: `{path}`.",
            "Copy a preset with `dimo presets cp digits mine.yaml`.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read `{path}`: {error}.") from None
    except yaml.MarkedYAMLError as error:
        raise SpecError(f"`{path}` is not valid YAML: {shown_at_its_line(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"`{path}` is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        hint = "Copy a preset with `dimo presets cp digits mine.yaml`, or leave `--spec` out."
        if path.name == "run.yaml":
            hint = "Bring the run's own back, or start a new run with another `--out`."
        raise SpecError(f"`{path}` is empty: it sets nothing.", hint)
    if not isinstance(values, dict):
        raise SpecError(
            f"`{path}` holds a {type(values).__name__}, not keys and values.",
            "See `dimo presets show digits` for what a spec looks like.",
        )
    lines: dict[str, int] = {}
    _collect_lines(root, "", lines, path)
    return YamlFile(values, lines)


def shown_at_its_line(error: yaml.MarkedYAMLError) -> str:
    """What is wrong with YAML, and the line with a mark below the place."""
    mark, told = error.problem_mark, error.problem or error.context or "it cannot be read"
    if mark is None:
        return f"{told}."
    place = f"{told}, line {mark.line + 1}, column {mark.column + 1}."
    snippet = mark.get_snippet(indent=2, max_length=100)
    return f"{place}\n{snippet}" if snippet else place


def _collect_lines(node: Any, path: str, lines: dict[str, int], file: Path | str) -> None:
    if path:
        line = node.start_mark.line + 1
        if path in lines:
            raise SpecError(f"`{path}` is set twice in {file}, on lines {lines[path]} and {line}.")
        lines[path] = line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _collect_lines(value, f"{path}.{key.value}" if path else key.value, lines, file)
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_lines(value, f"{path}.{index}" if path else str(index), lines, file)


def add_yaml(layers: Layers, source: YamlFile, prefix: str) -> None:
    """Lay the values of a YAML file over what is there."""
    layers.set("", source.values, prefix)
    for path, origin in layers.origins.items():
        if origin == prefix:
            layers.origins[path] = f"{prefix} {source.lines.get(path, 1)}"


def parse_value(text: str, origin: str) -> Any:
    """Read a value the way YAML would, so that lists, numbers and null work on a command line."""
    try:
        value, root = parse_yaml(text) if text.strip() else ("", None)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SpecError(
            f"The value {text!r} of {origin} cannot be read.",
            "Quote it for your shell, or write it into a `--spec` file.",
        ) from None
    _collect_lines(root, "", {}, origin)
    return value


def presets_folder() -> Path:
    """Where the presets are: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    """Names of all presets for `dimo distill`."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def refine_preset_names() -> list[str]:
    """Names of all presets for `dimo refine`."""
    return sorted(path.stem for path in (presets_folder() / "refine").glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset of either kind."""
    if name in refine_preset_names():
        return presets_folder() / "refine" / f"{name}.yaml"
    names = preset_names()
    if name not in names:
        known = [*names, *refine_preset_names()]
        raise SpecError(f"There is no preset `{name}`.", did_you_mean(name, known))
    return presets_folder() / f"{name}.yaml"


def refuse_other_kind(model: type[Spec], preset: str) -> None:
    """Refuse a preset of `dimo refine` where its settings mean nothing."""
    if preset in refine_preset_names() and "reward" not in model.model_fields:
        raise SpecError(
            f"`{preset}` is a preset of `dimo refine`.",
            f"Run `dimo refine STUDENT --preset {preset}`; for `dimo spec check` add --refine.",
        )


def preset_summary(name: str) -> str:
    """The first line of a preset's comment: what it is."""
    first = preset_path(name).read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").strip()
