"""NaN in any network: the step is skipped, the run rolled back, or given up with exit 4."""

import json

import pytest
import torch

from dimo_cli.console.live import PlainView
from dimo_cli.data.shards import builtin_dataset
from dimo_cli.engine.auxiliary_update import AuxiliaryUpdate
from dimo_cli.engine.field import TeacherLogits
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import DivergedError, MissingError, NotFinite
from dimo_cli.runs.distill import distill
from dimo_cli.runs.refine import LabeledTokens, refine
from dimo_cli.runs.watcher import RunWatcher
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.students.folder import BUILTIN, save_student
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec

SHORT = {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}
GAN = {"enabled": True, "weight": 1.0, "width": 16, "heads": 2}
REWARD = {"terms": {"clip": 1.0}, "weight": 1.0}
TRAINED = ("student", "auxiliary", "discriminator")


def brightness(images, texts):
    return images.mean((1, 2, 3))


def poison(network):
    """One weight that is no number."""
    with torch.no_grad():
        next(p for p in network.parameters() if p.numel() > 4).view(-1)[3] = torch.nan


class Poisoning(Silent):
    """Puts NaN into a network after a step, so often."""

    def __init__(self, name, step, times=1):
        super().__init__()
        self.name, self.step, self.times = name, step, times

    def on_log(self, record):
        super().on_log(record)
        if record["step"] == self.step and self.times:
            self.times -= 1
            poison({**self.trainer.frozen(), **self.trainer.networks()}[self.name])


def trained(folder, watcher, reward=brightness, **groups):
    """A refinement with every kind of network in it."""
    base = small_spec(train=SHORT).model_dump()
    base |= {"gan": GAN, "reward": REWARD, "recovery": {"max_skipped": 3, "max_rollbacks": 2}}
    for name, values in groups.items():
        base[name] = {**base[name], **values}
    teacher = load_teacher("digits")
    data = LabeledTokens(builtin_dataset("digits"), teacher)
    method = lambda *args: Refinement(  # noqa: E731
        *args, start=teacher.backbone, data=data, rewards={"brightness": (reward, 1.0)}
    )
    trainer = Trainer(RefineSpec.model_validate(base), teacher, folder, watcher, method)
    watcher.trainer = trainer
    trainer.run()
    return trainer


@pytest.mark.parametrize("name", [*TRAINED, "ema"])
@pytest.mark.parametrize("step", [3, 4, 5, 6], ids=lambda step: f"step {step}")
def test_nan_in_a_trained_network_is_rolled_back_and_never_saved(tmp_path, name, step):
    """Also at steps at which a checkpoint is due, and at the last one."""
    watcher = Poisoning(name, step)
    trainer = trained(tmp_path, watcher)
    assert trainer.progress.step == 6
    assert trainer.progress.rollbacks == 1
    assert trainer.unsound() == []
    assert any("Rolled back" in note for note in watcher.notes)
    for checkpoint in trainer.checkpoints.steps():
        trainer.checkpoints.load(checkpoint, trainer.networks())
        assert trainer.unsound() == [], f"step {checkpoint} was saved with NaN in it"


@pytest.mark.parametrize("name", TRAINED)
def test_a_skipped_step_names_the_network_that_is_the_cause(tmp_path, name):
    """NaN in one network shows in the gradients of another: the notes must not blame that one."""
    watcher = Poisoning(name, 3)
    trained(tmp_path, watcher)
    (skipped,) = [note for note in watcher.notes if "skipped" in note]
    assert f"Not finite are: weights of the {name}" in skipped


@pytest.mark.parametrize("name", [*TRAINED, "ema"])
def test_nan_that_comes_again_and_again_is_exit_4_and_the_checkpoints_stay_good(tmp_path, name):
    watcher = Poisoning(name, 3, times=100)
    with pytest.raises(DivergedError, match="after 2 rollbacks") as caught:
        trained(tmp_path, watcher)
    assert caught.value.exit_code == 4
    assert "learning_rate" in caught.value.hint
    trainer = watcher.trainer
    step, _, damaged = trainer.checkpoints.load_newest(trainer.networks())
    assert (step, damaged) == (2, [])
    assert trainer.unsound() == []


@pytest.mark.parametrize("name", ["teacher", "tokenizer"])
def test_nan_in_a_frozen_network_before_the_run_is_refused(tmp_path, name):
    teacher = load_teacher("shapes")
    poison(teacher.backbone if name == "teacher" else teacher.tokenizer)
    with pytest.raises(
        MissingError, match=f"The {name} of `shapes` has weights .* damaged"
    ) as caught:
        Trainer(small_spec(), teacher, tmp_path / "r", Silent()).run()
    assert caught.value.exit_code == 3
    assert not (tmp_path / "r").exists()


def test_nan_in_the_teacher_during_the_run_is_exit_4_at_once(tmp_path):
    """No rollback brings a teacher back, since no checkpoint has it."""
    watcher = Poisoning("teacher", 3)
    with pytest.raises(DivergedError, match="Weights of the teacher turned") as caught:
        trained(tmp_path, watcher)
    assert "--resume" in caught.value.hint
    assert watcher.trainer.progress.rollbacks == 0
    resumed = Trainer(small_spec(train=SHORT), load_teacher("digits"), tmp_path, Silent())
    step, _, _ = resumed.checkpoints.load_newest(resumed.networks())
    assert step == 2


def sometimes_nan(bad_calls):
    calls = []

    def reward(images, texts):
        calls.append(1)
        scores = brightness(images, texts)
        return scores * torch.nan if len(calls) in bad_calls else scores

    return reward


def test_a_reward_that_is_nan_once_costs_a_step_and_is_named(tmp_path):
    watcher = Silent()
    trainer = trained(tmp_path, watcher, sometimes_nan({2}))
    assert trainer.progress.skipped == 1
    assert trainer.progress.rollbacks == 0
    (note,) = watcher.notes
    assert "Not finite are: reward_brightness, reward_loss" in note
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_reward_that_is_always_nan_is_exit_4_and_is_named(tmp_path):
    with pytest.raises(DivergedError, match="reward_brightness"):
        trained(tmp_path, Silent(), sometimes_nan(range(1000)))


@pytest.mark.parametrize("where", ["teacher_logits", "update", "discriminator_loss"])
def test_one_bad_number_on_the_way_costs_a_step_and_no_more(tmp_path, monkeypatch, where):
    """The weights are sound: nothing has to be rolled back."""
    calls = []

    def spoil(original):
        def spoiled(*args, **kwargs):
            found = original(*args, **kwargs)
            calls.append(1)
            if len(calls) != 2:
                return found
            if callable(found):
                return lambda rows: TeacherLogits(found(rows).conditional * torch.nan)
            return (
                (found[0] * torch.nan, *found[1:])
                if isinstance(found, tuple)
                else found * torch.nan
            )

        return spoiled

    if where == "discriminator_loss":
        from dimo_cli.engine.objectives import gan

        monkeypatch.setattr(gan, where, spoil(gan.discriminator_loss))
    else:
        home = Refinement if where == "teacher_logits" else AuxiliaryUpdate
        monkeypatch.setattr(home, where, spoil(getattr(home, where)))
    trainer = trained(tmp_path, Silent())
    assert (trainer.progress.skipped, trainer.progress.rollbacks) == (1, 0)
    assert trainer.progress.step == 6
    assert trainer.unsound() == []


def test_an_fid_that_is_nan_is_never_the_best(tmp_path):
    spec = small_spec(train={**SHORT, "steps": 3}, monitor={"fid_every": 1})
    watcher = Silent(fids=[float("nan"), 4.0, 5.0])
    trainer = Trainer(spec, load_teacher("digits"), tmp_path, watcher)
    trainer.run()
    assert (trainer.progress.best_step, trainer.progress.best_value) == (2, 4.0)


class Drawing(Poisoning):
    """Poisons the average before a step at which it is to be drawn and measured."""

    def __init__(self):
        super().__init__("ema", step=3)
        self.seen = []

    def looks_at(self, step):
        return step == 4

    def look(self, step, student):
        self.seen.append(all(p.isfinite().all() for p in student.parameters()))
        return {}

    def measure_metric(self, step, student):
        self.look(step, student)
        return 1.0

    def on_preview(self, step, student):
        self.look(step, student)


def test_a_student_with_nan_in_it_is_neither_drawn_nor_measured(tmp_path):
    """Though no checkpoint is due that would have found it out."""
    watcher = Drawing()
    train = {**SHORT, "checkpoint_every": 100, "log_every": 3}
    monitor = {"preview_every": 4, "fid_every": 4}
    trainer = trained(tmp_path, watcher, train=train, monitor=monitor)
    assert trainer.progress.rollbacks == 1
    assert len(watcher.seen) > 3
    assert all(watcher.seen)


@pytest.mark.parametrize("metric", [False, True])
def test_images_that_are_not_finite_are_a_note_and_training_goes_on(tmp_path, monkeypatch, metric):
    """Weights can be finite and too large; the trainer finds out whether that heals."""
    talk = []
    spec = small_spec(train=SHORT, monitor={"preview_every": 1, "fid_every": 2 * metric})
    watcher = RunWatcher(spec, load_teacher("digits"), tmp_path, PlainView(talk.append))

    def not_finite(*args, **kwargs):
        raise NotFinite("Nothing to draw from.")

    monkeypatch.setattr("dimo_cli.students.student.sample_student", not_finite)
    trainer = Trainer(spec, load_teacher("digits"), tmp_path, watcher)
    trainer.run()
    assert trainer.progress.step == 6
    notes = (tmp_path / "notes.txt").read_text()
    assert "No preview of step 3: Nothing to draw from." in notes
    assert ("Not measured at step 4: Nothing to draw from." in notes) == metric


def distilled(folder):
    distill(small_spec(train=SHORT), folder, PlainView(lambda line: None))


def refined(folder):
    spec = small_spec(train={**SHORT, "steps": 2}).model_dump()
    spec |= {"gan": GAN, "start": str(BUILTIN["digits"])}
    refine(RefineSpec.model_validate(spec), folder, PlainView(lambda line: None))


@pytest.mark.parametrize("trained", [distilled, refined])
def test_a_student_that_draws_nothing_in_the_end_is_not_saved(tmp_path, monkeypatch, trained):
    def not_finite(*args, **kwargs):
        raise NotFinite("Nothing to draw from.")

    monkeypatch.setattr("dimo_cli.students.student.sample_student", not_finite)
    with pytest.raises(DivergedError, match="No student was saved"):
        trained(tmp_path / "r")
    assert not (tmp_path / "r" / "student").exists()


@pytest.mark.parametrize("trained", [distilled, refined])
def test_a_student_whose_weights_turn_to_nan_in_the_end_is_not_saved(
    tmp_path, monkeypatch, trained
):
    """After the last look at them: the file itself is asked."""
    run = Trainer.run

    def spoiled(trainer, *args):
        backbone = run(trainer, *args)
        poison(backbone)
        return backbone

    monkeypatch.setattr(Trainer, "run", spoiled)
    with pytest.raises((NotFinite, DivergedError)):
        trained(tmp_path / "r")
    assert not (tmp_path / "r" / "student").exists()


def test_a_student_with_nan_in_it_is_not_saved(tmp_path):
    teacher = load_teacher("digits")
    poison(teacher.backbone)
    with pytest.raises(NotFinite, match="The weights of this student are not finite"):
        save_student(tmp_path / "student", small_spec(), teacher, teacher.backbone)
    assert not (tmp_path / "student").exists()
