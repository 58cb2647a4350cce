"""A blueprint is all there is to know of a teacher before a single weight is read.

Each family's file turns a variant's name into a `Blueprint`: how to build its networks, where their
weights are published, and how published names become ours. From a blueprint `skeleton` makes a
teacher on the meta device (for planning) and `assemble` the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from dimo_cli.errors import DimoError, SpecError, did_you_mean
from dimo_cli.files.untrusted import LAYERS, MOST, MOST_LAYERS, as_list, first_problem
from dimo_cli.hub.loading import fill_published, on_meta
from dimo_cli.hub.published import HubFile, Published, Store
from dimo_cli.specs.base import Spec
from dimo_cli.teachers.conditioning import ClassConditioner
from dimo_cli.teachers.protocol import (
    Backbone,
    Conditioner,
    SamplerDefaults,
    Teacher,
    Tokenizer,
    TokenSpace,
)

A = TypeVar("A", bound=Spec)
Settings = Mapping[str, Any]
ReadConfig = Callable[[HubFile], dict[str, Any]]
"""Reads a configuration file of a family's repository."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One variant of a family."""

    name: str
    family: str
    license: str
    summary: str
    space: TokenSpace
    sampler: SamplerDefaults
    build_backbone: Callable[[], Backbone]
    build_tokenizer: Callable[[], Tokenizer]
    build_conditioner: Callable[[Store | None], Conditioner]
    """Given no store, a conditioner that can only make blank conditions is enough."""
    backbone: Published
    tokenizer: Published
    other_files: tuple[HubFile, ...] = ()
    """Configs, vocabularies and text encoders: what else is downloaded."""
    architecture: Mapping[str, Any] | None = None
    """The settings the networks are built with."""
    class_names: tuple[str, ...] = ()
    class_ids: tuple[str, ...] = ()
    takes_prompts: bool = False


def read_architecture(model: type[A], published: Settings, overrides: Settings) -> A:
    """The architecture that is published, with what the user overrides of it."""
    for key in overrides:
        if key not in model.model_fields:
            raise SpecError(
                f"`teacher.architecture.{key}` is not a setting of this family.",
                did_you_mean(key, model.model_fields),
            )
    for key, value in overrides.items():
        check_number(key, value)
    try:
        return model.model_validate({**published, **overrides})
    except ValidationError as error:
        path, message = first_problem(error)
        value = error.errors()[0].get("input")
        raise SpecError(f"`teacher.architecture.{path}` is {value!r}: {message}.") from None


def check_number(path: str, value: Any) -> None:
    """Refuse a number that no network has, however deep in a setting: building it would not end."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_number(f"{path}.{key}", inner)
    most = MOST_LAYERS if LAYERS.search(path.rpartition(".")[2]) else MOST
    if any(type(number) is int and number > most for number in (value, *as_list(value))):
        raise SpecError(f"`teacher.architecture.{path}` is {value!r}: at most {most:,} will do.")


def skeleton(blueprint: Blueprint) -> Teacher:
    """The teacher on the meta device: shapes without weights."""
    return finish(blueprint, *empty_networks(blueprint), None, "-")


def empty_networks(blueprint: Blueprint) -> tuple[Backbone, Tokenizer]:
    """Both networks without memory for their weights; sizes that do not go together are refused."""
    try:
        return on_meta(blueprint.build_backbone), on_meta(blueprint.build_tokenizer)
    except DimoError:
        raise
    except Exception as error:  # of torch, or of the library that a family's networks are from
        reason = " ".join(str(error).split())[:160]
        raise SpecError(
            f"`teacher.architecture` is none that `{blueprint.name}` can be built with: {reason}.",
            "Leave it out, or state all of its sizes.",
        ) from error


def assemble(blueprint: Blueprint, store: Store, with_backbone: bool = True) -> Teacher:
    """The teacher with its published weights; without its backbone where a student has its own."""
    backbone, tokenizer = empty_networks(blueprint)
    if with_backbone:
        backbone = fill_published(backbone, blueprint.backbone, store)
    tokenizer = fill_published(tokenizer, blueprint.tokenizer, store)
    revision = store.revision_of(blueprint.backbone)
    return finish(blueprint, backbone, tokenizer, store, revision)


def finish(
    blueprint: Blueprint,
    backbone: Backbone,
    tokenizer: Tokenizer,
    store: Store | None,
    revision: str,
) -> Teacher:
    """Put the parts and the facts together; classes without names go by their numbers."""
    conditioner = blueprint.build_conditioner(store)
    names = blueprint.class_names
    if not names and isinstance(conditioner, ClassConditioner):
        names = tuple(str(number) for number in range(conditioner.classes))
    return Teacher(
        name=blueprint.name,
        family=blueprint.family,
        revision=revision,
        license=blueprint.license,
        space=blueprint.space,
        backbone=backbone,
        tokenizer=tokenizer,
        conditioner=conditioner,
        sampler=blueprint.sampler,
        class_names=names,
        class_ids=blueprint.class_ids,
        takes_prompts=blueprint.takes_prompts,
    )
