"""From what Python code says of a run to its spec: the sources that a command line has, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Spec
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths
from dimo_cli.specs.flags import Given
from dimo_cli.specs.resolve import Plan, resolve_spec

S = TypeVar("S", bound=DistillSpec)
M = TypeVar("M", bound=Spec)
Settings = Mapping[str, Any]
Start = str | os.PathLike[str] | Settings | DistillSpec
Layers = dict[str, dict[str, Any]]

GIVEN = "spec"  # the origin of what a dictionary or a spec object says


@dataclass(frozen=True)
class Source(Generic[S]):
    """What a run starts from."""

    model: type[S]
    preset: str | None = None
    file: Path | None = None
    values: dict[str, Any] | None = None
    is_whole: bool = False
    """Whether these are all values of a spec, so that nothing may lie between."""

    @property
    def has_spec(self) -> bool:
        """Whether there is more than a preset."""
        return self.file is not None or self.values is not None

    @property
    def name(self) -> str | None:
        """What its folder is called."""
        return self.preset or (self.file.stem if self.file else None)

    def plan(self, layers: Layers, brought: tuple[str, dict[str, Any]] | None = None) -> Plan[S]:
        """The spec with what is set above it; `brought` is what a student says of itself."""
        above: Layers = {} if self.values is None else {GIVEN: self.values}
        return resolve_spec(
            self.model,
            preset=self.preset,
            file=self.file,
            base=None if self.is_whole else brought,
            environment={} if self.is_whole else None,
            flags={**above, **layers},
        )


def read_source(given: Start | None, preset: str | None, model: type[S]) -> Source[S]:
    """What is given as a preset's name, a YAML file, a dictionary or a spec."""
    if given is None:
        return Source(model, preset)
    if isinstance(given, Spec):
        if type(given) is not model or preset is not None:
            kind = type(given).__name__
            raise SpecError(
                f"`spec` is a {kind}" + (" and there is a preset." if preset else "."),
                f"Give a {model.__name__}, which has every setting, or a preset's name.",
            )
        return Source(model, values=plain(given), is_whole=True)
    if isinstance(given, Mapping):
        return Source(model, preset, values=plain(given))
    if not isinstance(given, (str, os.PathLike)):
        raise SpecError(
            f"`spec` is a {type(given).__name__}.",
            f"Give a preset's name, a YAML file, a dictionary or a {model.__name__}.",
        )
    name = os.fspath(given)
    if name.endswith((".yaml", ".yml")):
        return Source(model, preset, Path(name).expanduser())
    if preset is not None:
        raise SpecError(f"`{name}` and `{preset}` are both presets.", "Give one of them.")
    return Source(model, name)


def layers_of(groups: Settings, own: Settings, by_path: Settings | None) -> Layers:
    """Settings by who says them, the last one first heeded: groups, arguments, then `set`."""
    layers: Layers = {f"argument {name}": {name: plain(value)} for name, value in groups.items()}
    for path, value in own.items():
        if value is not None:
            layers[f"argument {path.rpartition('.')[2]}"] = {path: plain(value)}
    for path, value in (by_path or {}).items():
        if not isinstance(path, str) or not path.strip() or ".." in f".{path}.":
            raise SpecError(
                f"`set` has {path!r}, which is no setting.",
                'Write it like `set={"train.steps": 500}`.',
            )
        layers[f"set {path}"] = {path: plain(value)}
    return layers


def plain(value: Any) -> Any:
    """A value as a file would have it: paths are texts, and numbers are Python's."""
    if isinstance(value, Spec):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def asked_for(model: type[M], own: Settings, sampler: Mapping[str, Any]) -> M:
    """The spec of one call; mistakes are told by the names of its arguments."""
    values = {name: value for name, value in own.items() if value is not None}
    values |= {f"sampler.{name}": value for name, value in sampler.items()}
    names = {path: path.rpartition(".")[2] for path in (*known_paths(model), *values)}
    return Given(model, {path: plain(value) for path, value in values.items()}, names).spec()


def named(given: object, argument: str) -> str | None:
    """The name or path that is given for something; None where nothing is."""
    if given is None or isinstance(given, (str, os.PathLike)):
        return None if given is None else os.fspath(given)
    own = type(given).__name__
    hint = "Give a run, a folder or a name."
    if callable(given):
        hint += f" A {own} draws by itself: call it."
    raise SpecError(f"`{argument}` is a {own}.", hint)


def named_folder(given: object, argument: str) -> str | None:
    """The folder that is given for something, also one below `~`; None where nothing is."""
    name = named(given, argument)
    return str(Path(name).expanduser()) if name else None


def as_texts(argument: str, given: object) -> list[str]:
    """One word or several, as a list of them."""
    items = [given] if isinstance(given, (str, int)) else given
    if not isinstance(items, (list, tuple, range)):
        raise SpecError(f"`{argument}` is a {type(given).__name__}.", "Give one, or a list.")
    return [str(item) for item in items]
