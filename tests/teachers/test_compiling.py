"""Blocks are compiled once for all that are alike, and nothing that a run draws undoes that."""

import contextlib

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from dimo_cli.engine.distill import Distillation
from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers import compiling
from dimo_cli.teachers.compiling import Compiled, compile_blocks
from tests.conftest import small_spec
from tests.helpers.tiny import ARCHITECTURES, FAMILIES, tiny_teacher

# Kinds of blocks: the others have one. Show-o's teacher reads prompts apart, by the same block.
KINDS = {"titok-s128": 2, "maskgen-l": 2, "meissonic": 2, "amused-512": 3, "showo": 2}
# Their blocks take longest to trace.
LARGE = ("amused-512", "meissonic", "maskgen-l")
# Ways in which a step uses a block: the teacher's (on conditions and null conditions), the
# student's and the auxiliary's with gradients, and the auxiliary's and the student's without.
MOST_WAYS = 4


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """The graphs are made as ever and run as they are: what takes long is left out."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    compiling.block_caller.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    compiling.block_caller.cache_clear()
    torch._dynamo.reset()


def method_of(name, **groups):
    groups.setdefault("init", {"mask_ratio": {"kind": "random", "low": 0.3, "high": 0.9}})
    groups.setdefault("teacher", {"name": name, "guidance": {"scale": 2.0}})
    groups.setdefault("train", {"batch_size": 2, "accumulate": 2})
    teacher = tiny_teacher(name)
    if hasattr(teacher.conditioner, "dataset"):
        own = teacher.conditioner.dataset[:2]
        teacher.conditioner.dataset = list(own) or ["a red circle", "a blue square"]
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, small_spec(**groups), generator, contextlib.nullcontext)


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in FAMILIES],
)
def test_alike_blocks_are_one_graph_that_lasts_whatever_a_run_draws(name):
    notes = []
    method = method_of(name)
    for backbone in method.backbones():
        compile_blocks(backbone, notes.append)
    method.step(0)
    after_one = graphs()
    assert 0 < after_one <= MOST_WAYS * KINDS.get(name, 1)
    for step in range(1, 5):
        method.step(step, measure=step % 2 == 0)
    assert graphs() == after_one
    assert dict(counters["graph_break"]) == {}
    assert notes == []


@pytest.mark.parametrize("name", ["maskbit", "titok-s128"])
def test_recomputed_blocks_are_compiled_alike(name):
    groups = {"train": {"batch_size": 2, "gradient_checkpointing": True}}
    plain, fast = method_of(name, **groups), method_of(name, **groups)
    for backbone in fast.backbones():
        compile_blocks(backbone)
    for step in range(2):
        plain.step(step)
        fast.step(step)
    assert graphs() > 0
    assert dict(counters["graph_break"]) == {}
    for one, other in zip(plain.student.parameters(), fast.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)


GRAPH = "a compiled graph"


def as_one(graph, _inputs):
    """A graph that is run as it is, under one name."""

    def run(*args):
        with torch.profiler.record_function(GRAPH):
            return graph.forward(*args)

    return run


def is_within_a_graph(event):
    while event is not None:
        if event.name == GRAPH:
            return True
        event = event.cpu_parent
    return False


def launches(work):
    """How many operations are launched, where a compiled graph is one."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    events = profile.events()
    plain = [
        event
        for event in events
        if event.name.startswith("aten::")
        and not any(child.name.startswith("aten::") for child in event.cpu_children)
        and not is_within_a_graph(event)
    ]
    return len(plain) + sum(event.name == GRAPH for event in events)


@pytest.mark.slow
def test_a_compiled_step_of_maskbits_depth_launches_less_than_half(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "maskbit", {**ARCHITECTURES["maskbit"], "depth": 24})
    backend = aot_autograd(fw_compiler=as_one, bw_compiler=as_one)
    monkeypatch.setattr(compiling, "BACKEND", backend)
    counted = {}
    for compiles in (False, True):
        method = method_of("maskbit")
        for backbone in method.backbones() if compiles else ():
            compile_blocks(backbone)
        method.step(0)
        counted[compiles] = launches(lambda method=method: method.step(1))
    assert counted[True] <= 0.5 * counted[False]


@pytest.mark.slow
def test_the_real_compiler_learns_what_plain_blocks_learn_and_keeps_its_code(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    notes = []
    plain, fast = method_of("maskgit"), method_of("maskgit")
    for backbone in fast.backbones():
        compile_blocks(backbone, notes.append)
    for step in range(2):
        plain.step(step)
        fast.step(step)
    assert notes == []
    assert any((tmp_path / "fxgraph").iterdir())
    for one, other in zip(plain.student.parameters(), fast.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def broken(graph, inputs):
    raise RuntimeError("no C compiler was found")


def test_what_cannot_be_compiled_runs_plainly_and_says_why(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", broken)
    notes = []
    method = method_of("maskgit")
    for backbone in method.backbones():
        compile_blocks(backbone, notes.append)
    plain = method_of("maskgit")
    assert not method.step(0).skipped
    plain.step(0)
    assert len(notes) == 1
    assert "no C compiler was found" in notes[0]
    assert "without it" in notes[0]
    for one, other in zip(plain.student.parameters(), method.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_backward_that_cannot_be_compiled_does_not_end_a_run(monkeypatch):
    backend = aot_autograd(fw_compiler=as_one, bw_compiler=broken)
    monkeypatch.setattr(compiling, "BACKEND", backend)
    notes = []
    method = method_of("maskgit")
    for backbone in method.backbones():
        compile_blocks(backbone, notes.append)
    assert not method.step(0).skipped
    assert len(notes) == 1
    assert "no C compiler was found" in notes[0]


def test_an_error_of_a_block_itself_is_nobody_elses():
    def wrong(x):
        return x @ torch.zeros(3)

    function = Compiled(wrong, lambda note: None, dynamic=None)
    with pytest.raises(RuntimeError, match="size mismatch") as caught:
        function(torch.zeros(2, 2))
    assert caught.type is RuntimeError  # as it is without a compiler


def test_auto_compiles_on_cuda_alone_and_not_what_is_sharded():
    auto = TrainSpec()
    assert auto.compile == "auto"
    assert auto.compiles(on_cuda=True)
    assert not auto.compiles(on_cuda=False)
    assert not auto.compiles(on_cuda=True, sharded=True)
    assert TrainSpec(compile=True).compiles(on_cuda=False)
    assert not TrainSpec(compile=False).compiles(on_cuda=True)


def test_copies_of_a_network_share_what_runs_their_blocks():
    first, second = tiny_teacher("maskgit").backbone, tiny_teacher("maskgit").backbone
    assert not isinstance(first.call_block, Compiled)
    compile_blocks(first)
    compile_blocks(second)
    assert first.call_block is second.call_block
    assert isinstance(first.call_block, Compiled)
