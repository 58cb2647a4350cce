"""Rehearsals of runs for tests that look at something else: short ones, and each only once.

A rehearsal takes seconds, and every plan and every start of a refinement has one. What it counts is
held by `tests/planning/`, where all are as long as a user's.
"""

from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

CHUNKS = 2  # a step goes through: what a chunk takes is the same in each
# Settings that change nothing about a step.
LOOP = {"steps", "seed", "log_every", "checkpoint_every", "keep_checkpoints"}
NO_MATTER = {"train": LOOP, "monitor": True, "condition": True, "recovery": True}


def shapes_of(tensors):
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors)


def known_of(teacher):
    """All that a rehearsal knows of a teacher."""
    for network in (teacher.backbone, teacher.tokenizer):
        yield type(network)
        yield shapes_of([*network.named_parameters(), *network.named_buffers()])
    yield type(teacher.conditioner)
    yield shapes_of(teacher.conditioner.blank(1).tensors.items())


@cache
def remembered():
    """`rehearse`, which looks up what it has been asked before."""
    from dimo_cli.planning.rehearsal import rehearse
    from dimo_cli.specs.refine import RefineSpec

    known = {}

    def rehearse_once(teacher, build, *settings):
        spec = build.args[0]
        rewards = build.keywords["rewards"] if isinstance(spec, RefineSpec) else None
        asked = (type(spec), spec.model_dump_json(exclude=NO_MATTER), rewards, settings)
        key = (teacher.name, teacher.space, *known_of(teacher), *asked)
        if key not in known:
            known[key] = rehearse(teacher, build, *settings)
        return known[key]

    return rehearse_once


def counted_once(forward_flops):
    """`forward_flops`, which looks up what it has counted before."""
    known = {}

    def count(backbone, teacher):
        key = (teacher.name, type(backbone), shapes_of(backbone.named_parameters()))
        if key not in known:
            known[key] = forward_flops(backbone, teacher)
        return known[key]

    return count


@contextmanager
def short_rehearsals():
    """Until then no rehearsal is long, and nothing is counted twice."""
    from dimo_cli.planning import flops, memory

    once = counted_once(flops.forward_flops)
    rehearsals = patch.multiple(memory, MOST_CHUNKS=CHUNKS, rehearse=remembered())
    with rehearsals, patch.object(flops, "forward_flops", once):
        yield


def no_rehearsal(teacher, build, *settings):
    """Numbers for tests that do not look at them: little, whatever it is for."""
    from dimo_cli.planning.rehearsal import PURPOSES, Rehearsed

    return Rehearsed(dict.fromkeys(PURPOSES, 2**24), dict.fromkeys(PURPOSES, 0))
