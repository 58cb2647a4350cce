"""Pairs of a start and what a network made of it: drawn once, kept in files, found again.

A folder of pairs is named after all that decides them: the network's weights, how it is sampled,
what starts are, and the seed. So a second run with the same teacher finds what the first one drew,
and one that was stopped goes on at the next file. In rounds after the first the network is the
student itself, which starts where it always starts; a teacher knows masks alone, so that its images
and the starts beside them are drawn apart.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.distributed.ranks import first_ahead
from dimo_cli.engine.many_steps import sample_by_plan
from dimo_cli.engine.one_step import student_hidden, student_input
from dimo_cli.files.writing import whole_file
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.init import InitSpec
from dimo_cli.teachers.decoding import half_on_cuda
from dimo_cli.teachers.protocol import Backbone, Cond, Step, Teacher

Part = tuple[Tensor, Tensor, Cond]
PER_FILE = 512
TELL_EVERY = 10.0  # seconds
TEXTS = "texts"  # where a file says the prompts of its pairs


@dataclass(frozen=True)
class Pairs:
    """Pairs in memory, in the smallest integers that hold them."""

    teacher: Teacher
    start: Tensor
    end: Tensor
    cond: Cond
    """Of classes the labels; of prompts their words, which are encoded when they are drawn."""

    def __len__(self) -> int:
        return len(self.end)

    def draw(
        self, count: int, generator: torch.Generator, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor, Cond]:
        """`rows` of `count` random pairs [B, L, G] and their conditions."""
        chosen = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        places = chosen[rows].cpu()
        return self.start[places].long(), self.end[places].long(), self.conditions(places)

    def conditions(self, places: Tensor) -> Cond:
        """The conditions of some pairs."""
        if self.cond.texts:
            texts = [self.cond.texts[place] for place in places.tolist()]
            return self.teacher.conditioner.prompts(texts)
        return Cond({name: tensor[places] for name, tensor in self.cond.tensors.items()})


@dataclass(frozen=True)
class Drawer:
    """A network that makes pairs, and how."""

    world: Teacher
    """The teacher, with the network in the place of its own."""
    plan: list[Step]
    init: InitSpec
    is_teacher: bool

    @property
    def name(self) -> str:
        """Who it is."""
        return f"the teacher {self.world.name}" if self.is_teacher else "the student"

    def facts(self) -> dict[str, Any]:
        """What decides its pairs, beside their seed."""
        words = "\n".join(getattr(self.world.conditioner, "dataset", ()))
        own = {} if self.is_teacher else {"embed_noise": self.init.embed_noise.sigma}
        return own | {
            "teacher": [self.world.name, self.world.revision, self.is_teacher],
            "weights": weights_hash(self.world.backbone),
            "plan": [asdict(step) for step in self.plan],
            "init": self.init.model_dump(mode="json"),
            "prompts": hashlib.sha256(words.encode()).hexdigest(),
        }

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> Part:
        """New pairs."""
        world, space = self.world, self.world.space
        cond = world.conditioner.draw(count, generator).to(generator.device)
        start = student_input(space, world.tokenizer, self.init, count, generator)
        begin = None if self.is_teacher else start.to(generator.device)

        def look(tokens: Tensor, cond: Cond) -> Tensor:
            sigma = self.init.embed_noise.sigma
            return student_hidden(world.backbone, tokens, cond, sigma, generator)

        was_training = world.backbone.training
        world.backbone.eval()
        with half_on_cuda(generator.device, "auto"):
            own = None if self.is_teacher else look
            end = sample_by_plan(world, cond, self.plan, generator, start=begin, look=own)
        world.backbone.train(was_training)
        kind = id_dtype(max(space.mask_id, space.codes - 1))
        # Its words say all that a prompt's features do, in a thousandth of the bytes.
        kept = Cond({}, cond.texts) if cond.texts else cond.to("cpu")
        return start.cpu().to(kind), end.cpu().to(kind), kept


@dataclass(frozen=True)
class PairStore:
    """Has pairs drawn by teacher and student, each set once."""

    teacher: Teacher
    spec: DistillSpec
    root: Path
    say: Callable[[str], None] = lambda line: None

    def __call__(self, source: Backbone | None, count: int, steps: int | None) -> Pairs:
        """`count` pairs of a student in so many steps; None: of the teacher, by its sampler."""
        drawer = self.drawer(source, steps)
        folder = self.folder_of(drawer, count)
        parts, told = [], time.monotonic()
        with first_ahead():
            for first in range(0, count, PER_FILE):
                parts.append(self.part(drawer, folder, first, min(PER_FILE, count - first)))
                if time.monotonic() - told >= TELL_EVERY and first + PER_FILE < count:
                    self.say(f"{first + PER_FILE:,} of {count:,} pairs are there.")
                    told = time.monotonic()
        starts, ends, conds = zip(*parts, strict=True)
        return Pairs(self.teacher, torch.cat(starts), torch.cat(ends), joined(conds))

    def folder_of(self, drawer: Drawer, count: int) -> Path:
        """Where so many pairs of someone are kept, if they have been drawn."""
        facts = {"dimo": __version__, "seed": self.spec.train.seed, "count": count}
        text = json.dumps(facts | drawer.facts(), sort_keys=True)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:24]

    def missing(self, drawer: Drawer, count: int) -> int:
        """How many of so many pairs are not there yet."""
        folder, firsts = self.folder_of(drawer, count), range(0, count, PER_FILE)
        missing = [first for first in firsts if not path_of(folder, first).is_file()]
        return sum(min(PER_FILE, count - first) for first in missing)

    def drawer(self, source: Backbone | None, steps: int | None) -> Drawer:
        """Who draws: by the family's published sampler, a student without guidance."""
        defaults, space = self.teacher.sampler, self.teacher.space
        guidance = defaults.guidance if source is None else 1.0
        slots, steps = space.length * space.groups, steps or defaults.steps
        plan = defaults.plan(steps, slots, guidance, defaults.choice_noise)
        world = self.teacher if source is None else replace(self.teacher, backbone=source)
        return Drawer(world, plan, self.spec.init, source is None)

    def part(self, drawer: Drawer, folder: Path, first: int, count: int) -> Part:
        """The pairs of one file, which is written if it is not there or damaged."""
        path = path_of(folder, first)
        if (found := read_part(path, count)) is not None:
            return found
        if first == 0:
            self.say(f"Pairs are drawn with {drawer.name}, and kept in {folder}.")
        digest = hashlib.sha256(f"{folder.name} {first}".encode()).digest()
        generator = torch.Generator(next(drawer.world.backbone.parameters()).device)
        drawn = drawer.draw(count, generator.manual_seed(int.from_bytes(digest[:7], "big")))
        folder.mkdir(parents=True, exist_ok=True)
        write_part(path, *drawn)
        return drawn


def path_of(folder: Path, first: int) -> Path:
    """The file that begins with this pair."""
    return folder / f"pairs-{first // PER_FILE:05d}.safetensors"


def id_dtype(largest: int) -> torch.dtype:
    """The smallest integer type that holds ids up to this one."""
    kinds = (torch.uint8, torch.int16, torch.int32)
    return next(kind for kind in kinds if largest <= torch.iinfo(kind).max)


def joined(conds: Sequence[Cond]) -> Cond:
    """The conditions of several files."""
    if conds[0].tensors:
        return Cond.cat(conds)
    return Cond({}, tuple(text for cond in conds for text in cond.texts))


def write_part(path: Path, start: Tensor, end: Tensor, cond: Cond) -> None:
    """Write a file of pairs, whole or not at all."""
    tensors = {f"cond.{name}": tensor.contiguous() for name, tensor in cond.tensors.items()}
    tensors |= {"start": start.contiguous(), "end": end.contiguous()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={TEXTS: json.dumps(cond.texts)})


def read_part(path: Path, count: int) -> Part | None:
    """A file of so many pairs; None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = tuple(json.loads(file.metadata()[TEXTS]))
        start, end = tensors.pop("start"), tensors.pop("end")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    conds = {name.removeprefix("cond."): tensor for name, tensor in tensors.items()}
    return (start, end, Cond(conds, texts)) if len(start) == len(end) == count else None


def weights_hash(network: Backbone) -> str:
    """A hash of all weights of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
