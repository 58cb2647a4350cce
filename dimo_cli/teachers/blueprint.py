"""A blueprint is all there is to know of a teacher before a single weight is read.

Each family's file turns a variant's name into a `Blueprint`: how to build its networks, where their
weights are published, and how published names become ours. From a blueprint `skeleton` makes a
teacher on the meta device (for planning) and `assemble` the real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dimo_cli.errors import DimoError, MissingError, SpecError, did_you_mean
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

StateDict = dict[str, Tensor]
N = TypeVar("N", bound=nn.Module)
A = TypeVar("A", bound=Spec)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a Hub repository, and what is known of it."""

    repo: str
    path: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None
    repo_type: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}"


def unchanged(weights: StateDict) -> StateDict:
    """Published names that are ours already."""
    return weights


@dataclass(frozen=True, slots=True)
class Published:
    """The published weights of one network."""

    files: tuple[HubFile, ...]
    """The same weights in several places or formats: the first that is there is used."""
    inside: str | None = None
    """Key of the state dict within the file, where it is not the whole file."""
    convert: Callable[[StateDict], StateDict] = unchanged
    """Published names to ours. What it drops it names, with the reason beside it."""


class Store(Protocol):
    """Where published files come from: the Hub, its cache, or a local folder."""

    def config(self, file: HubFile) -> dict[str, Any]:
        """A JSON or YAML file, parsed."""

    def folder(self, files: tuple[HubFile, ...]) -> Path:
        """A local folder that holds these files of one repository folder."""

    def weights(self, published: Published) -> StateDict:
        """The weights under our names, memory-mapped where possible."""

    def revision_of(self, published: Published) -> str:
        """The commit that the weights were read from; `local` for a local folder."""

    def origin(self) -> str:
        """What tells the files of this store from those of another."""

    def prompt_cache(self) -> Path:
        """The folder of cached prompt embeddings."""


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


# Beyond these a network is a mistake that would take forever to build.
MOST, MOST_LAYERS = 1_000_000, 1_000
LAYERS = re.compile(r"depth|layers|blocks|^bits$")


def as_list(value: Any) -> Sequence[Any]:
    """The items of a list or a tuple; none of anything else."""
    return value if isinstance(value, (list, tuple)) else ()


def read_architecture(
    model: type[A], published: Mapping[str, Any], overrides: Mapping[str, Any]
) -> A:
    """The architecture that is published, with what the user overrides of it."""
    for key in overrides:
        if key not in model.model_fields:
            raise SpecError(
                f"`teacher.architecture.{key}` is not a setting of this family.",
                did_you_mean(key, model.model_fields),
            )
    for key, value in overrides.items():
        most = MOST_LAYERS if LAYERS.search(key) else MOST
        if any(type(number) is int and number > most for number in (value, *as_list(value))):
            raise SpecError(f"`teacher.architecture.{key}` is {value!r}: at most {most:,} will do.")
    try:
        return model.model_validate({**published, **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise SpecError(
            f"`teacher.architecture.{path}` is {first.get('input')!r}: {first['msg']}."
        ) from None


def check_sizes(config: Any, what: str, key: str = "") -> None:
    """Refuse a configuration file with a number that no network has, anywhere in it."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            check_sizes(value, what, str(name))
    for value in as_list(config):
        check_sizes(value, what, key)
    most = MOST_LAYERS if LAYERS.search(key) else MOST
    if type(config) is int and config > most:
        raise MissingError(
            f"{what} is damaged: `{key}` is more than {most:,}.", "Copy or download it again."
        )


@contextmanager
def described_by(file: HubFile) -> Iterator[None]:
    """Refuse a configuration file of which no network can be built, whatever is wrong with it."""
    try:
        yield
    except DimoError:
        raise
    except Exception as error:  # of pydantic, of the networks' library, or of torch
        reason = " ".join(str(error).split())[:160]
        raise MissingError(
            f"`{file}` does not describe a network that dimo knows ({type(error).__name__}: "
            f"{reason}).",
            f"Is it the published file of `{file.repo}`?",
        ) from error


def on_meta(build: Callable[[], N]) -> N:
    """Build a network without memory for its weights."""
    with torch.device("meta"):
        return build().requires_grad_(False).eval()


def fill(network: N, weights: StateDict, what: str) -> N:
    """Give a meta network its weights, strictly: no key too few, none too many, no other shape."""
    expected = network.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    for problem, names in (("lacks", missing), ("has unknown", unexpected), ("differs:", shapes)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise MissingError(
                f"{what} does not fit this architecture: it {problem} {shown}.",
                "Is it the file of this preset? For a model of your own, describe it with "
                "`--set teacher.architecture.KEY=VALUE`.",
            )
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    network.load_state_dict(typed, assign=True)
    return network.requires_grad_(False).eval()


def fill_published(network: N, published: Published, store: Store) -> N:
    """Give a meta network its published weights."""
    return fill(network, store.weights(published), f"`{published.files[0]}`")


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
