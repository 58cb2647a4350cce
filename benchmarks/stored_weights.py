"""What rounding a teacher's weights does to its guided logits, on the golden networks.

python -m benchmarks.stored_weights [--json FILE]

A family's golden network sees half-masked random tokens under its own guidance. The error is of
logits without their mean, which no softmax sees: its root mean square over theirs. Golden networks
are a few dozen numbers wide; wider ones average rounding out over more. And what the largest
teacher takes in memory with each kind of weights, by its shapes alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.output import emit
from dimo_cli.engine.many_steps import guided_head
from dimo_cli.planning.memory import estimate_memory
from dimo_cli.planning.plan import requirements
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.stored import StoredAs
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.protocol import Teacher
from dimo_cli.teachers.registry import load_skeleton, load_teacher

RESULTS = Path(__file__).parent / "results" / "stored_weights.json"
KINDS: tuple[StoredAs, ...] = ("bf16", "int8")
SAMPLES = 4
LARGEST = "lumina-dimoo"
TRAINED = [  # one sample at a time on a card
    "train.batch_size=1",
    "train.accumulate=1",
    "train.gradient_checkpointing=true",
    "student.lora.rank=64",
    "condition.prompts=prompts.txt",
]
PROMPTS = ("a red circle", "two blue squares", "a small green triangle", "one black square")


@contextmanager
def golden_hub() -> Iterator[Any]:
    """An empty Hub on this machine, with caches of its own."""
    from tests.helpers.fake_hub import FakeHub, serve

    hub = FakeHub()
    server = serve(hub)
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": folder, "DIMO_CACHE": folder}
        try:
            yield hub
        finally:
            os.environ.clear()
            os.environ.update(before)
            server.shutdown()
            server.server_close()


def guided_logits(teacher: Teacher) -> Tensor:
    """Logits [B L, G, V] of half-masked tokens, less the mean of each row."""
    space, generator = teacher.space, torch.Generator().manual_seed(0)
    shape = (SAMPLES, space.length, space.groups)
    tokens = torch.randint(space.codes, shape, generator=generator)
    masked = torch.rand(shape, generator=generator) < 0.5
    tokens = tokens.masked_fill(masked, space.mask_id)
    conditioner = teacher.conditioner
    if teacher.takes_prompts:
        cond = conditioner.prompts(PROMPTS[:SAMPLES])
    else:
        cond = conditioner.labels(torch.arange(SAMPLES))
    cond, null = (part.at(0.5) for part in (cond, conditioner.null(SAMPLES)))
    with torch.no_grad():
        head = guided_head(teacher.backbone, tokens, cond, null, teacher.sampler.guidance)
        logits = head(torch.arange(SAMPLES * space.length)).float()
    return logits - logits.mean(-1, keepdim=True)


def errors(load: Callable[[StoredAs], Teacher]) -> dict[str, Any]:
    """The error of each kind of weights."""
    exact = load("fp32")
    expected = guided_logits(exact)
    found: dict[str, Any] = {"guidance": exact.sampler.guidance}
    for kind in KINDS:
        off = guided_logits(load(kind)) - expected
        relative = float(off.square().mean().sqrt() / expected.square().mean().sqrt())
        found[kind] = {"relative": round(relative, 6), "largest": round(float(off.abs().max()), 5)}
    return found


def measure() -> dict[str, Any]:
    """All families."""
    from tests.helpers.golden import load_golden
    from tests.helpers.students import PUBLISH

    rows = {}
    for name in ("digits", "shapes"):
        rows[name] = errors(partial(stored_teacher, name))
    for name, publish in PUBLISH.items():
        torch.manual_seed(0)  # of text encoders, which have no golden weights
        with golden_hub() as hub:
            architecture = publish(hub, load_golden)
            rows[name] = errors(partial(stored_teacher, name, architecture=architecture))
        print(name, rows[name], flush=True)
    return {
        "command": "python -m benchmarks.stored_weights",
        "samples": SAMPLES,
        "rows": rows,
        LARGEST: {"sets": TRAINED, "bytes": sizes()},
    }


def sizes() -> dict[str, Any]:
    """Bytes of the largest teacher by kind: to draw with it, and to train adapters over it."""
    found: dict[str, Any] = {}
    for kind in (*KINDS, "fp32"):
        sets = [*TRAINED, f"teacher.weights={kind}"]
        spec = resolve_spec(DistillSpec, preset=LARGEST, sets=sets, environment={}).spec
        found[kind] = {
            "to_sample": requirements(spec, ask_hub=False).to_sample,
            "to_train": estimate_memory(load_skeleton(spec.teacher), spec, on_gpu=True).total,
        }
    return found


def stored_teacher(
    name: str, kind: StoredAs, architecture: dict[str, Any] | None = None
) -> Teacher:
    """A teacher with weights of a kind."""
    source = TeacherSource(name=name, weights=kind, architecture=architecture or {})
    return load_teacher(source)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stored_weights", description=__doc__
    )
    parser.add_argument("--json", type=Path, nargs="?", const=RESULTS)
    emit(measure(), parser.parse_args().json)
