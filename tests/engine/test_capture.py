"""A captured step: what the host decides lies in fixed tensors, and the rest could be recorded."""

import contextlib

import pytest
import torch

from dimo_cli.engine.capture import CapturedStep, obstacle
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import SpecError
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec

# With a large `eps`: what has no gradient but for rounding (the bias of attention keys) stays.
SMOOTH = {"learning_rate": 1e-3, "warmup_steps": 1, "eps": 1e-3}


def distillation(teacher, /, **groups):
    """One that draws on the host apart, as on a card."""
    for name in ("student", "auxiliary"):
        groups[name] = {"optimizer": SMOOTH, **groups.get(name, {})}
    run = Distillation(
        teacher, small_spec(**groups), torch.Generator().manual_seed(0), contextlib.nullcontext
    )
    run.host = torch.Generator().manual_seed(1)
    run.generator = run.share.streams(run.run_generator, run.host)[0]
    return run


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"teacher": {"guidance": {"kind": "linear", "scale": 2.0}}},
        {"auxiliary": {"updates": 2}, "init": {"mask_ratio": {"kind": "random"}}},
        {"auxiliary": {"share_x_tilde": True}, "loss": {"reduction": "masked_mean"}},
        {"masking": {"method": "bernoulli"}},
    ],
    ids=["plain", "guidance", "updates", "shared", "bernoulli"],
)
def test_a_step_on_prepared_tensors_is_the_plain_step(teacher, groups):
    """Also where they are filled again and again, as for a recording."""
    plain = distillation(teacher, **groups)
    fixed = CapturedStep(distillation(teacher, **groups), pytest.fail)
    for step in range(4):
        plain.step(step)
        fixed.prepare(step)
        places = [fixed.buffers.masks.data_ptr(), fixed.buffers.cond.tensors["label"].data_ptr()]
        fixed.run(step)
    assert places == [
        fixed.buffers.masks.data_ptr(),
        fixed.buffers.cond.tensors["label"].data_ptr(),
    ]
    for name, network in plain.networks().items():
        found = fixed.distillation.networks()[name].state_dict()
        for key, tensor in network.state_dict().items():
            # Sums over other rows in another order: Adam's first steps magnify the difference.
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    assert torch.equal(plain.host.get_state(), fixed.distillation.host.get_state())


def test_a_recording_that_fails_is_told_and_the_run_goes_on(teacher, monkeypatch):
    def refuse():
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    notes = []
    plain, run = distillation(teacher), CapturedStep(distillation(teacher), notes.append)
    for step in range(6):
        plain.step(step)
        run.step(step)
    (note,) = notes
    assert "could not be captured" in note
    assert "operation not permitted when stream is capturing" in note
    weight = "blocks.0.qkv.weight"
    found, expected = (r.student.state_dict()[weight] for r in (run.distillation, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_does_not_tell_how_its_steps_were_carried_out(teacher):
    run = CapturedStep(distillation(teacher), pytest.fail)
    optimizer = run.distillation.student_optimizer
    run.step(0)
    assert optimizer.has_rate_tensor
    saved = optimizer.state_dict()
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.0  # of a warm-up's first step
    assert not saved["optimizer"]["param_groups"][0]["capturable"]
    optimizer.load_state_dict(saved)
    run.forget()
    run.step(1)


def test_what_cannot_be_captured_is_refused_with_the_reason(tmp_path, teacher):
    assert obstacle(distillation(teacher)) == "it is not on a CUDA device"
    spec = small_spec(train={"capture": True})
    with pytest.raises(SpecError, match="it is not on a CUDA device") as caught:
        Trainer(spec, load_teacher("digits"), tmp_path, Silent())
    assert "train.capture=auto" in caught.value.hint


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"train": {"accumulate": 2}}, "several passes"),
        ({"train": {"dropout": True}}, "train.dropout"),
        ({"auxiliary": {"fresh_samples": True}}, "fresh_samples"),
        ({"init": {"embed_noise": {"kind": "warmup"}}}, "embed_noise"),
    ],
)
def test_so_is_a_step_that_changes_its_shapes_or_its_draws(teacher, groups, reason, monkeypatch):
    run = distillation(teacher, **groups)
    run.run_generator = CudaGenerator()
    assert reason in obstacle(run)
    run.__class__ = Refinement
    assert obstacle(run) == "it has a GAN or rewards"


class CudaGenerator(torch.Generator):
    device = torch.device("cuda")
