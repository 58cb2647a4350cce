"""The loop: the same seed gives the same bytes, however often it was interrupted."""

import hashlib
import json
import os
import signal

import pytest
import torch

from dimo_cli.errors import DivergedError, MissingError, SpecError
from dimo_cli.specs.train import TrainSpec
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.accelerator import make_accelerator
from dimo_cli.training.progress import Progress
from dimo_cli.training.stopping import Interrupted
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec


def train(folder, watcher=None, resume=False, before=None, **groups):
    trainer = Trainer(small_spec(**groups), load_teacher("digits"), folder, watcher or Silent())
    if before:
        before(trainer)
    trainer.run(resume)
    return trainer


def fingerprint(trainer):
    digest = hashlib.sha256()
    for network in trainer.networks().values():
        for tensor in network.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    digest.update(trainer.generator.get_state().numpy().tobytes())
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tmp_path):
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(train(tmp_path / "c", train={"seed": 1})) != fingerprint(first)


@pytest.mark.parametrize("student", [{}, {"steps": [1, 2, 4]}], ids=["one step", "few steps"])
def test_a_resumed_run_equals_one_that_went_straight_through(tmp_path, student):
    straight = train(tmp_path / "straight", student=student)
    train(tmp_path / "cut", train={"steps": 4}, student=student)
    torch.rand(17)  # whatever happened to the global generator in between
    resumed = train(tmp_path / "cut", resume=True, student=student)
    assert fingerprint(resumed) == fingerprint(straight)


def test_on_another_kind_of_device_random_numbers_begin_anew(tmp_path):
    trainer = Trainer(small_spec(), load_teacher("digits"), tmp_path, Silent())
    begun, trainer.progress.step = trainer.generator.get_state(), 3
    of_a_card = trainer.random_state() | {"run": torch.zeros(16, dtype=torch.uint8)}
    drawn = []
    for _ in range(2):
        trainer.restore_random({"random": of_a_card})
        assert not torch.equal(trainer.generator.get_state(), begun)
        drawn.append((torch.rand(1, generator=trainer.generator), torch.rand(1)))
    assert drawn[0] == drawn[1]
    assert "on this cpu random numbers begin anew" in trainer.watcher.notes[0]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_step_writes_a_checkpoint_and_resumes_exactly(tmp_path, number, code):
    class Interrupting(Silent):
        def on_log(self, record):
            if record["step"] == 2:
                os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "cut", Interrupting())
    assert stopped.value.exit_code == code
    assert stopped.value.step == 2
    assert (stopped.value.checkpoint / "student.safetensors").is_file()
    resumed = train(tmp_path / "cut", resume=True)
    assert fingerprint(resumed) == fingerprint(train(tmp_path / "straight"))
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_run_that_is_to_outlive_its_terminal_goes_on_when_that_is_closed(tmp_path):
    class Closing(Silent):
        def on_log(self, record):
            if record["step"] == 2:
                os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` starts it
    try:
        assert train(tmp_path / "r", Closing()).progress.step == 6
    finally:
        signal.signal(signal.SIGHUP, before)


def test_watching_does_not_change_what_is_trained(tmp_path):
    class Nosy(Silent):
        def on_preview(self, step, student):
            torch.manual_seed(step)
            torch.rand(3)

    plain = train(tmp_path / "plain")
    monitor = {"preview_every": 1, "fid_every": 1}
    watched = train(tmp_path / "watched", Nosy(fids=[3, 2, 1, 4, 5, 6]), monitor=monitor)
    assert fingerprint(plain) == fingerprint(watched)


def test_the_average_follows_the_published_warm_up(tmp_path):
    trainer = train(tmp_path, train={"steps": 1})
    teacher = load_teacher("digits").backbone.to_logits.weight
    student = trainer.distillation.student.to_logits.weight
    expected = 0.1 * teacher + 0.9 * student
    torch.testing.assert_close(trainer.averaged.to_logits.weight, expected.detach())


def test_the_log_has_a_line_per_due_step_and_none_twice_after_a_resume(tmp_path):
    train(tmp_path, train={"steps": 4})
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "divergence": 1}\n{"step": 6, "di')  # a crash after the checkpoint
    train(tmp_path, resume=True)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {"divergence", "auxiliary_loss", "auxiliary_gap", "entropy", "top1"} <= set(records[-1])


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path):
    trainer = train(
        tmp_path,
        Silent(fids=[5.0, 1.0, 3.0, 4.0, 6.0, 7.0]),
        train={"checkpoint_every": 1, "keep_checkpoints": 2},
        monitor={"fid_every": 1},
    )
    assert trainer.checkpoints.steps() == [2, 5, 6]
    assert trainer.progress.best_step == 2
    assert (trainer.progress.best_metric, trainer.progress.best_value) == ("fid", 1.0)


def test_of_a_metric_that_rises_the_largest_value_is_the_best(tmp_path):
    trainer = train(
        tmp_path,
        Silent(fids=[0.2, 0.6, 0.5, 0.1, 0.3, 0.4]),
        monitor={"fid_every": 1, "metric": "precision"},
    )
    assert (trainer.progress.best_step, trainer.progress.best_value) == (2, 0.6)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["precision"] for record in logged] == [0.2, 0.6, 0.5, 0.1, 0.3, 0.4]


def test_a_checkpoint_that_knows_the_fid_only_is_continued():
    state = {"step": 4, "skipped": 1, "best_fid": 2.5, "best_step": 3}
    progress = Progress.read(state)
    assert (progress.step, progress.skipped, progress.best_step) == (4, 1, 3)
    assert not progress.note_metric("fid", 2.6)
    assert progress.note_metric("fid", 2.4)
    assert progress.best_step == 4


def test_values_of_different_metrics_are_not_compared():
    progress = Progress.read({"step": 4, "best_fid": 2.5, "best_step": 3})
    assert progress.note_metric("geneval", 0.1)
    assert (progress.best_metric, progress.best_value, progress.best_step) == ("geneval", 0.1, 4)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    train(tmp_path, train={"steps": 5, "keep_checkpoints": 5})
    newest = tmp_path / "checkpoints" / "step-5" / "student.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    watcher = Silent()
    resumed = train(tmp_path, watcher, resume=True)
    assert any("step-5" in note and "damaged" in note for note in watcher.notes)
    assert fingerprint(resumed) == fingerprint(train(tmp_path / "straight"))


def break_steps(bad_steps):
    """Make the student's gradient infinite at these steps."""

    def install(trainer):
        di = trainer.distillation
        original = di.student_update.backward

        def sometimes(generation, measure):
            result = original(generation, measure)
            if trainer.progress.step in bad_steps:
                next(p for p in di.student.parameters() if p.grad is not None).grad.fill_(torch.inf)
            return result

        di.student_update.backward = sometimes

    return install


def test_a_step_that_is_not_finite_is_skipped_counted_and_harmless(tmp_path):
    watcher = Silent()
    trainer = train(tmp_path, watcher, before=break_steps({2, 4}))
    assert trainer.progress.skipped == 2
    assert trainer.progress.skipped_in_row == 0
    assert trainer.progress.step == 6
    assert all(p.isfinite().all() for p in trainer.averaged.parameters())
    assert [n for n in watcher.notes if "skipped" in n and "student" in n]


def test_after_too_many_skips_the_run_rolls_back_with_a_lower_rate(tmp_path):
    failures = {4, 5}

    def once(trainer):
        break_steps(failures)(trainer)

    class Healing(Silent):
        def on_note(self, message):
            super().on_note(message)
            if "Rolled back" in message:
                failures.clear()

    watcher = Healing()
    trainer = train(tmp_path, watcher, before=once, recovery={"max_skipped": 2})
    assert trainer.progress.rollbacks == 1
    assert trainer.distillation.student_optimizer.scale == 0.5
    assert trainer.distillation.auxiliary_optimizer.scale == 0.5
    assert any("from step 6 to step 3" in note for note in watcher.notes)
    assert trainer.progress.step == 6
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_after_too_many_rollbacks_the_run_gives_up_with_a_diagnosis(tmp_path):
    with pytest.raises(DivergedError) as caught:
        train(
            tmp_path,
            before=break_steps(range(2, 100)),
            recovery={"max_skipped": 2, "max_rollbacks": 2},
        )
    assert caught.value.exit_code == 4
    assert "after 2 rollbacks the student" in caught.value.message
    assert "student.optimizer.learning_rate" in caught.value.hint


def test_a_finished_run_cannot_be_shortened(tmp_path):
    train(tmp_path)
    with pytest.raises(SpecError, match="at step 6 already"):
        train(tmp_path, resume=True, train={"steps": 5})


def test_a_missing_cuda_device_is_said_in_a_sentence():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SpecError, match="no CUDA device"):
        make_accelerator(TrainSpec(device="cuda"))
    with pytest.raises(SpecError, match="bf16"):
        make_accelerator(TrainSpec(precision="bf16"))


@pytest.mark.parametrize(
    "groups",
    [
        {"loss": {"divergence": "js"}},
        {"loss": {"divergence": {"kind": "alpha", "alpha": 0.5}, "weight": {"kind": "adaptive"}}},
        {"loss": {"divergence": {"kind": "generator", "name": "pearson"}, "entropy_bonus": 0.01}},
        {"loss": {"student_input": "x_tilde"}, "masking": {"method": "bernoulli"}},
        {"loss": {"student_input": "x_tilde_init", "reduction": "masked_mean"}},
        {"init": {"control": "encoded_noise"}},
        {"init": {"control": "random_class_tokens", "embed_noise": {"kind": "warmup", "steps": 3}}},
        {"init": {"mask_ratio": {"kind": "random", "low": 0.3, "high": 0.7}}},
        {"teacher": {"guidance": {"kind": "cosine", "scale": 2.0}}},
        {"auxiliary": {"soft_weight": 0.3, "soft_temperature": 2.0, "updates": 2}},
        {"auxiliary": {"share_x_tilde": True}},
        {"auxiliary": {"fresh_samples": True}},
        {"student": {"optimizer": {"kind": "adamw", "weight_decay": 0.01, "clip_norm": None}}},
        {"student": {"steps": [2, 4]}, "loss": {"weight": "calibrated"}},
        {"train": {"accumulate": 2, "gradient_checkpointing": True, "steps": 2, "batch_size": 4}},
        {"masking": {"student": "cosine", "auxiliary": "truncated_normal"}},
    ],
    ids=lambda groups: ",".join(f"{k}.{j}" for k, v in groups.items() for j in v),
)
def test_every_choice_of_the_spec_trains(tmp_path, groups):
    groups = {**groups, "train": {**groups.get("train", {}), "steps": 2}}
    trainer = train(tmp_path, **groups)
    assert trainer.progress.skipped == 0
    assert all(p.isfinite().all() for p in trainer.averaged.parameters())


def test_a_tracker_receives_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, monitor={"tracker": "tensorboard"})
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("dimo_cli.training.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingError) as caught:
        train(tmp_path, monitor={"tracker": "wandb"})
    assert "dimo-cli[wandb]" in caught.value.hint


@pytest.mark.slow
def test_a_compiled_run_trains(tmp_path):
    trainer = train(tmp_path, train={"compile": True, "steps": 2})
    assert trainer.progress.skipped == 0


@pytest.mark.gpu
def test_a_run_on_cuda_uses_bf16_and_trains(tmp_path):
    trainer = train(tmp_path, train={"device": "cuda", "steps": 4})
    assert trainer.accelerator.mixed_precision == "bf16"
    assert trainer.progress.skipped == 0
    assert all(p.is_cuda and p.isfinite().all() for p in trainer.averaged.parameters())
