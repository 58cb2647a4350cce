"""`distill`, `refine` and `resume` make the runs of the commands, and leave the process alone."""

import gc
import json
import logging
import random
import shutil
import signal
import threading

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import dimo_cli
from dimo_cli import DimoError, DistillSpec, Run
from dimo_cli.errors import DivergedError, MissingError, SpecError
from tests.python.conftest import FLAGS, QUICK, RUINOUS

WEIGHTS, SPEC = "student/model.safetensors", "run.yaml"


def same(first, second, *names):
    """Whether files of two run folders are equal, byte for byte."""
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_a_run_is_bit_for_bit_that_of_the_command(dimo, quick, tmp_path, capsys):
    told = dimo("distill", "--preset", "digits", "--steps", 4, *FLAGS, "--out", "a", "--json")
    assert told.exit_code == 0, told.stderr
    run = quick(out="b")
    assert same(tmp_path / "a", run.folder, WEIGHTS, SPEC, "student/dimo.json", "student/README.md")
    names = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in ("a", "b")]
    assert names[0] == names[1]
    assert capsys.readouterr() == ("", "")


def test_a_refinement_is_bit_for_bit_that_of_the_command(dimo, tmp_path):
    settings = {**QUICK, "train.batch_size": 4}
    flags = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    told = dimo("refine", "digits", "--gan", "--steps", 2, *flags, "--out", "a")
    assert told.exit_code == 0, told.stderr
    run = dimo_cli.refine("digits", gan=True, steps=2, set=settings, out="b")
    assert same(tmp_path / "a", run.folder, WEIGHTS, SPEC)
    assert run.spec.gan.enabled


def test_the_folder_is_a_new_one_as_the_command_chooses_it(quick, tmp_path):
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    run = quick(steps=1)
    assert run.folder.as_posix() == "runs/digits-2"


def test_a_folder_that_holds_a_run_is_refused_with_the_commands_sentence(quick):
    quick(steps=1, out="mine")
    with pytest.raises(SpecError, match="`mine` already holds a run") as caught:
        quick(steps=1, out="mine")
    assert "--resume mine" in caught.value.hint


def test_origins_say_which_argument_set_what(quick):
    run = quick(steps=1, train={"seed": 3})
    origins = json.loads((run.folder / "origins.json").read_text())
    assert origins["train.steps"] == "argument steps"
    assert origins["train.seed"] == "argument train"
    assert origins["train.batch_size"] == "set train.batch_size"
    assert origins["teacher.name"].startswith("preset digits, line")


def test_a_spec_a_dictionary_and_a_file_give_the_same_run(quick, tmp_path):
    first = quick(steps=1)
    shutil.copy(first.folder / SPEC, "mine.yaml")
    values = first.spec.model_dump()
    for start in (first.spec, values, "mine.yaml", tmp_path / "mine.yaml"):
        assert same(first.folder, dimo_cli.distill(start).folder, SPEC, WEIGHTS)
    assert Run("runs/mine").folder.name == "mine"


def test_a_spec_object_is_taken_whole_whatever_the_environment_says(quick, monkeypatch):
    spec = quick(steps=1).spec
    monkeypatch.setenv("DIMO_TRAIN__STEPS", "2")
    assert dimo_cli.distill(spec).spec == spec
    assert quick(steps=None).step == 2


def test_resuming_goes_on_bit_for_bit_and_takes_new_steps(quick, tmp_path):
    quick(steps=6, out="straight")
    quick(steps=3, out="parts")
    run = dimo_cli.resume("parts", steps=6)
    assert same(tmp_path / "straight", run.folder, WEIGHTS)


def test_a_finished_run_is_given_back_as_it_is(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    before = (folder / "effort.jsonl").read_text()
    assert dimo_cli.resume(Run(folder)).state == "finished"
    assert (folder / "effort.jsonl").read_text() == before


def test_what_cannot_be_resumed_is_refused(here):
    with pytest.raises(MissingError, match="holds no run to resume"):
        dimo_cli.resume("nothing")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "Say what to distill"),
        ({"preset": "digit"}, "There is no preset `digit`"),
        ({"spec": "digits", "preset": "shapes"}, "`digits` and `shapes` are both presets"),
        ({"spec": "missing.yaml"}, "No such spec file"),
        ({"spec": 3}, "`spec` is a int"),
        ({"spec": "digits", "stpes": 3}, "Unknown key `stpes`"),
        ({"spec": "digits", "steps": 0}, "`train.steps`.*argument steps"),
        ({"spec": "digits", "set": {"train.stepps": 3}}, "Unknown key `train.stepps`"),
        ({"spec": "digits", "set": {"": 3}}, "`set` has ''"),
        ({"spec": "digits", "train": 3}, "`train`"),
        ({"spec": "digits", "callbacks": ["log"]}, "none of the methods"),
    ],
)
def test_mistakes_are_sentences_before_anything_starts(arguments, told, here):
    with pytest.raises(DimoError, match=told):
        dimo_cli.distill(**arguments)
    assert not (here / "runs").exists()


def test_a_spec_of_the_other_kind_is_refused(here):
    spec = DistillSpec(teacher={"name": "digits"})
    with pytest.raises(SpecError, match="`spec` is a DistillSpec"):
        dimo_cli.refine("digits", spec)


def test_refining_without_saying_how_is_refused_as_the_command_does(here):
    with pytest.raises(SpecError, match="Say how to refine"):
        dimo_cli.refine("digits")


def test_a_run_that_needs_more_memory_than_there_is_is_refused_unless_forced(quick, monkeypatch):
    monkeypatch.setattr("dimo_cli.planning.plan.machine_memory", lambda: ("a small one", 2**20))
    with pytest.raises(MissingError, match="This run needs about") as caught:
        quick()
    assert caught.value.hint.endswith("start it anyway with `force=True`.")
    assert quick(steps=1, force=True).state == "finished"


def test_a_run_works_in_a_thread(quick):
    found = []
    thread = threading.Thread(target=lambda: found.append(quick(steps=2)))
    thread.start()
    thread.join(60)
    assert found[0].state == "finished"


def test_a_signal_ends_the_run_with_a_checkpoint_and_then_does_what_it_would_have_done(quick):
    class Interrupting:
        def on_step(self, step):
            if step == 2:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        quick(steps=4, out="run", callbacks=[Interrupting()])
    assert Run("run").state == "interrupted"
    assert Run("run").checkpoints[-2:] == ["step-2", "last"]


def test_a_run_leaves_the_process_as_it_was(quick):
    states = [
        lambda: random.getstate(),
        lambda: torch.get_rng_state().tolist(),
        lambda: [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        lambda: [list(logging.getLogger(n).handlers) for n in (None, "dimo_cli", "accelerate")],
        lambda: torch.backends.cuda.cudnn_sdp_enabled(),
        lambda: torch.get_num_threads(),
        lambda: torch.is_grad_enabled(),
    ]
    before = [state() for state in states]
    run = quick(steps=1)
    dimo_cli.sample(run, classes=[3])
    dimo_cli.evaluate(run, "fid", samples=20, use_cache=False)
    assert [state() for state in states] == before


def test_ones_own_accelerator_is_neither_in_the_way_nor_spoilt(quick):
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        mine = Accelerator(cpu=True, mixed_precision="bf16")
        assert quick(steps=1).state == "finished"
        assert mine.mixed_precision == AcceleratorState().mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def tensors():
    """How many tensors are alive."""
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


def test_several_runs_in_one_process_leave_nothing_behind(quick):
    counts = []
    for _ in range(3):
        run = quick(steps=2)
        run.student(class_labels=7)
        dimo_cli.sample(run, classes=[7])
        del run
        counts.append(tensors())
    assert counts[1] == counts[2]


def test_an_alarm_that_stops_the_run_is_an_error(quick):
    with pytest.raises(DivergedError, match=r"as `monitor\.stop_on` has collapse"):
        quick(steps=60, out="run", set=RUINOUS)
    assert Run("run").state == "diverged"
