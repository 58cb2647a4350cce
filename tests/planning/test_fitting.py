"""Passes are as large as memory allows, and smaller ones make the same step."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from dimo_cli.engine.capture import CapturedStep
from dimo_cli.engine.share import divide, halved
from dimo_cli.errors import SpecError
from dimo_cli.planning import fitting
from dimo_cli.planning.fitting import fit_passes, fitted
from dimo_cli.planning.memory import estimate_memory
from dimo_cli.specs.objectives import Objective
from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
from tests.helpers.recording import record_on_host

pytestmark = pytest.mark.usefixtures("whole_rehearsals")
GIB = 2**30


@pytest.fixture
def teacher():
    return load_teacher("digits")


def whole_step(teacher, spec, **train):
    one = {"batch_size": 64, "accumulate": 1, **train}
    changed = spec.model_copy(update={"train": spec.train.model_copy(update=one)})
    return estimate_memory(teacher, changed, on_gpu=True).total


def test_where_all_fits_a_step_is_one_pass(teacher):
    spec = small_spec(train={"batch_size": 16, "accumulate": 4})
    assert fit_passes(teacher, spec, 80 * GIB).micro_batch == 64
    assert not fit_passes(teacher, spec, 80 * GIB).gradient_checkpointing


def test_passes_are_cut_before_anything_is_recomputed(teacher):
    spec = small_spec(train={"batch_size": 16, "accumulate": 4})
    tight = int(0.7 * whole_step(teacher, spec))
    fit = fit_passes(teacher, spec, tight)
    assert 0 < fit.micro_batch < 64
    assert 64 % fit.micro_batch == 0
    assert not fit.gradient_checkpointing


def test_activations_are_recomputed_where_nothing_else_helps(teacher):
    spec = small_spec(train={"batch_size": 64, "micro_batch": 64})
    between = (
        whole_step(teacher, spec) + whole_step(teacher, spec, gradient_checkpointing=True)
    ) / 2
    fit = fit_passes(teacher, spec, int(between / fitting.USABLE))
    assert fit == fitting.Fit(64, True)


def test_two_graphs_at_a_time_take_half_the_samples_each(teacher):
    spec = small_spec(train={"batch_size": 64}, auxiliary={"share_x_tilde": True})
    assert fit_passes(teacher, spec, 80 * GIB).micro_batch == 32


@pytest.mark.parametrize(("samples", "least"), [(64, 2), (9, 3)])
def test_samples_that_are_compared_are_never_alone_in_a_pass(monkeypatch, samples, least):
    too_much = SimpleNamespace(total=GIB, activations=GIB)
    monkeypatch.setattr(fitting, "estimate_memory", lambda *_: too_much)
    spec = small_spec(train={"batch_size": samples})
    assert fit_passes(None, spec, 1).micro_batch == 1
    compared = spec.model_copy(update={"objectives": (Objective(kind="fpd"),)})
    assert fit_passes(None, compared, 1).micro_batch == least
    assert halved(divide(TrainSpec(batch_size=least)), compared.least_pass) is None
    with pytest.raises(SpecError, match="the 1 of a process are computed in passes of 1"):
        divide(spec.train, world=samples, least=compared.least_pass)


def test_what_was_asked_for_is_kept(teacher):
    spec = small_spec(train={"batch_size": 64, "micro_batch": 8, "gradient_checkpointing": False})
    assert fit_passes(teacher, spec, 80 * GIB) == fitting.Fit(8, False)


def test_on_a_cpu_a_pass_is_the_batch():
    spec = small_spec(train={"batch_size": 16, "accumulate": 4})
    assert fitted(spec, pytest.fail) is spec
    assert divide(spec.train).batch == 16


def test_on_a_card_a_run_is_told_what_fits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fitting, "machine_memory", lambda: ("a card", 80 * GIB))
    told = []
    spec = small_spec(train={"batch_size": 16, "accumulate": 4})
    own = fitted(spec, told.append)
    assert own.train.micro_batch == 64
    assert own.train.gradient_checkpointing is False
    assert told == ["1 x 64 samples a step and process fit on a card."]
    asked = small_spec(train={"micro_batch": 8, "gradient_checkpointing": False})
    assert fitted(asked, pytest.fail) is asked


def test_micro_batch_cuts_passes_and_changes_no_number():
    one = divide(TrainSpec(batch_size=64, micro_batch=16))
    assert (one.batch, one.passes, one.samples) == (16, 4, 64)
    half = halved(one)
    assert (half.batch, half.passes, half.samples, half.first) == (8, 8, 64, one.first)
    assert halved(divide(TrainSpec(batch_size=9))).batch == 3


class Cramped:
    """Memory that ends at so many samples of a pass."""

    def __init__(self, most):
        self.most = most

    def hold(self, method):
        step = method.step

        def limited(number, measure=False):
            if method.share.batch > self.most:
                activations = torch.zeros(1)
                self.held = weakref.ref(activations)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return step(number, measure)

        method.step = limited


def trained(folder, may_cut, most=10**9, **train):
    watcher = Silent()
    torch.manual_seed(0)
    trainer = Trainer(
        small_spec(train=train), load_teacher("digits"), folder, watcher, may_cut=may_cut
    )
    cramped, restore = Cramped(most), trainer.restore
    cramped.hold(trainer.distillation)

    def restore_with_room():
        assert cramped.held() is None, "the failed step is in memory still"
        restore()

    trainer.restore = restore_with_room
    return trainer.run(), watcher


def test_memory_that_runs_out_halves_the_passes_and_the_run_goes_on(tmp_path):
    expected, _ = trained(tmp_path / "a", may_cut=False, micro_batch=2)
    found, watcher = trained(tmp_path / "b", may_cut=True, most=2)
    assert [note for note in watcher.notes if "Memory ran out" in note][-1].endswith(
        "2 samples in it at a time."
    )
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_before_that_recordings_go(tmp_path, monkeypatch):
    record_on_host(monkeypatch)
    expected, _ = trained(tmp_path / "a", may_cut=False, checkpoint_every=100)
    watcher, spec = Silent(), small_spec(train={"checkpoint_every": 100})
    torch.manual_seed(0)
    trainer = Trainer(spec, load_teacher("digits"), tmp_path / "b", watcher)
    trainer.distillation.verdict.asks = False  # as on a card
    recorded = trainer.stepper = CapturedStep(trainer.distillation, pytest.fail)
    replay = recorded.replay

    def in_too_little_memory(*args):
        if recorded.recordings:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return replay(*args)

    recorded.replay = in_too_little_memory
    found = trainer.run()
    assert watcher.notes == [
        "Memory ran out: from step 0 on steps run as they are written, without a recording."
    ]
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other)


def test_passes_that_were_asked_for_are_not_cut(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, may_cut=False, most=2)


def test_not_even_one_sample_is_the_end(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, may_cut=True, most=0)
