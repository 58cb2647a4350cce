"""What a spec's fields are, in words: for error messages, for `presets show`, for `spec check`."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dimo_cli.errors import nearest
from dimo_cli.specs.base import Spec


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting of a spec: its dotted path, value, description and bounds."""

    path: str
    value: Any
    description: str
    allowed: str


# What pydantic calls by the names of its types.
IN_WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "int_parsing_size": "a whole number of fewer digits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "finite_number": "a finite number",
    "string_type": "text",
    "dict_type": "values by name",
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
}

# What other programs call a setting, where no letters lead there.
ALIASES = {
    **dict.fromkeys(("lr", "learningrate"), "student.optimizer.learning_rate"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "train.batch_size"),
    **dict.fromkeys(("steps", "iters", "iterations", "max_steps", "num_steps"), "train.steps"),
    **dict.fromkeys(
        ("grad_accum", "gradient_accumulation", "gradient_accumulation_steps"), "train.accumulate"
    ),
    **dict.fromkeys(("cfg", "cfg_scale", "guidance_scale"), "teacher.guidance.scale"),
    **dict.fromkeys(("wandb", "tensorboard", "trackio", "logger"), "monitor.tracker"),
    **dict.fromkeys(("bf16", "fp16", "mixed_precision", "dtype"), "train.precision"),
}
NOT_THERE = {
    **dict.fromkeys(
        ("epochs", "epoch", "num_epochs"),
        "A run has steps and no epochs, as its samples are the student's own: set `train.steps`.",
    ),
    **dict.fromkeys(
        ("gpus", "num_gpus", "n_gpu"), "How many processes there are is no setting: use `--gpus N`."
    ),
}


def spec_types(annotation: Any) -> list[type[Spec]]:
    """The spec classes an annotation allows: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return spec_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for member in get_args(annotation) for found in spec_types(member)]
    return []


def known_paths(model: type[Spec], prefix: str = "") -> list[str]:
    """Every dotted path that may be set, over all kinds."""
    paths: list[str] = []
    for name, info in model.model_fields.items():
        paths.append(f"{prefix}{name}")
        for child in spec_types(info.annotation):
            paths += known_paths(child, f"{prefix}{name}.")
    return list(dict.fromkeys(paths))


def leaves(spec: Spec, prefix: str = "") -> Iterator[Leaf]:
    """The settings of a spec in the order of their declaration."""
    for name, info in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield Leaf(f"{prefix}{name}", value, info.description or "", allowed(info))


def allowed(info: FieldInfo) -> str:
    """The bounds or choices of a field in a few words; empty if anything goes."""
    annotation = info.annotation
    for member in (annotation, *get_args(annotation)):
        if get_origin(member) is Literal:
            choices = get_args(member)
            return ", ".join(str(choice) for choice in choices) if len(choices) > 1 else ""
    words = []
    for bound in info.metadata:
        for attribute, word in (
            ("ge", "at least"),
            ("gt", "above"),
            ("le", "at most"),
            ("lt", "below"),
        ):
            if (limit := getattr(bound, attribute, None)) is not None:
                words.append(f"{word} {limit:,}" if isinstance(limit, (int, float)) else str(limit))
    return ", ".join(words)


def explain(
    model: type[Spec], values: Mapping[str, Any], origins: Mapping[str, str], problem: Any
) -> str:
    """One validation problem as a sentence with path, value, origin and what is allowed."""
    path = _path_without_tags(model, values, problem["loc"])
    origin = origin_of(path, origins)
    where = f" (from {origin})" if origin else ""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        last = path.rpartition(".")[2].lower()
        if last in NOT_THERE:
            return f"Unknown key `{path}`{where}. {NOT_THERE[last]}"
        guess = ALIASES.get(last) or _nearest_path(path, known_paths(model))
        return f"Unknown key `{path}`{where}." + (f" Did you mean `{guess}`?" if guess else "")
    if kind == "missing":
        return f"`{path}` is missing{where}: it has no default."
    if kind == "value_error":
        # Raised by our own validators, which speak in full about their group.
        place = f"`{path}`{where}: " if path else ""
        return f"{place}{context['error']}."
    value = problem["input"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        choices = context.get("expected_tags", "").replace("'", "")
        found = value.get("kind") if isinstance(value, dict) else value
        if not choices:
            choices = ", ".join(_kinds(model, path))
        guess = nearest(str(found), choices.split(", "))
        message = f"`{path}.kind` is {found!r}{where}: must be one of {choices}."
        return message + (f" Did you mean `{guess}`?" if guess else "")
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        guess = nearest(str(value), choices.split(", "))
        message = f"`{path}` is {value!r}{where}: must be one of {choices}."
        return message + (f" Did you mean `{guess}`?" if guess else "")
    if kind in ("model_type", "model_attributes_type"):
        fields = [known for known in known_paths(model) if known.startswith(f"{path}.")]
        return (
            f"`{path}` is {value!r}{where}: it is a group; set its fields, such as `{fields[0]}`."
        )
    if kind == "string_unicode":  # of a file's name, which may hold any bytes
        return f"`{path}` is {value!r}{where}: it is not UTF-8. Rename it or link to it."
    if kind in IN_WORDS:
        return f"`{path}` is {value!r}{where}: must be {IN_WORDS[kind]}."
    reason = problem["msg"].replace("Input should be ", "must be ").replace("Input ", "it ")
    return f"`{path}` is {value!r}{where}: {reason[0].lower()}{reason[1:]}."


def _path_without_tags(
    model: type[Spec], values: Mapping[str, Any], location: tuple[str | int, ...]
) -> str:
    """Pydantic's location without the kinds that it puts in between for unions."""
    path: list[str] = []
    node: Any = values
    for part in location:
        is_key = isinstance(node, Mapping) and part in node
        if not is_key and part in _kinds(model, ".".join(path)):
            continue
        path.append(str(part))
        node = node.get(part) if isinstance(node, Mapping) else None
    return ".".join(path)


def origin_of(path: str, origins: Mapping[str, str]) -> str | None:
    """The origin of a path, of the nearest group above it, or of the first value below it."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        if (origin := origins.get(".".join(parts[:length]))) is not None:
            return origin
    below = [origin for known, origin in origins.items() if known.startswith(f"{path}.")]
    return below[0] if below else None


def _nearest_path(path: str, choices: list[str]) -> str | None:
    """The known path meant: same group first, then the same last word elsewhere, then alike."""
    group, _, last = path.rpartition(".")
    siblings = {p.rpartition(".")[2]: p for p in choices if p.rpartition(".")[0] == group}
    if guess := nearest(last, siblings):
        return siblings[guess]
    elsewhere = {p.rpartition(".")[2]: p for p in reversed(choices)}  # of several the first
    if guess := nearest(last, elsewhere):
        return elsewhere[guess]
    return nearest(path, choices)


def types_at(model: type[Spec], path: str) -> list[type[Spec]]:
    """The spec classes that may stand at a path: several where a group has kinds."""
    found: list[type[Spec]] = [model]
    for part in path.split("."):
        fields = [owner.model_fields[part] for owner in found if part in owner.model_fields]
        found = [child for field in fields for child in spec_types(field.annotation)]
    return found


def _kinds(model: type[Spec], path: str) -> list[str]:
    """The values of `kind` that a group allows."""
    fields = [t.model_fields["kind"] for t in types_at(model, path) if "kind" in t.model_fields]
    return [choice for field in fields for choice in get_args(field.annotation)]


def default_of(model: type[Spec], path: str) -> Any:
    """What a path would be if nobody set anything; None where the default has no such path."""
    node: Any = model()
    for part in path.split("."):
        node = getattr(node, part, None)
    return node
