"""What is called while a run trains, and how a callback ends it."""

import pytest

import dimo_cli
from dimo_cli import Callback, Run, StopRun
from dimo_cli.errors import DivergedError, SpecError
from dimo_cli.python.callbacks import METHODS
from tests.python.conftest import RUINOUS
from tests.python.test_training import WEIGHTS, same


class Recorder:
    """Remembers every call."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))

    def __dir__(self):
        return METHODS

    def of(self, name):
        return [arguments for called, *arguments in self.calls if called == name]


def test_every_moment_of_a_run_is_told_in_its_order(quick):
    seen = Recorder()
    run = quick(steps=4, callbacks=[seen])
    (started, step), *others = seen.of("on_start")
    assert (started.folder, step, others) == (run.folder, 0, [])
    assert seen.of("on_step") == [[1], [2], [3], [4]]
    assert [record for (record,) in seen.of("on_log")] == run.log()
    assert [step for step, _ in seen.of("on_preview")] == [2, 4]
    assert seen.of("on_checkpoint") == [[n, run.folder / f"checkpoints/step-{n}"] for n in (3, 4)]
    assert [ended.state for (ended,) in seen.of("on_end")] == ["finished"]
    names = [name for name, *_ in seen.calls if name != "on_note"]
    assert (names[0], names[-1]) == ("on_start", "on_end")
    assert names[1:5] == ["on_step", "on_log", "on_step", "on_log"]


def test_a_preview_is_a_picture_of_as_many_pixels_as_were_drawn(quick):
    seen = Recorder()
    quick(steps=2, callbacks=[seen])
    (_, grid), *_ = seen.of("on_preview")
    assert grid.mode == "RGB"
    assert grid.height < 20


def test_any_subset_of_the_methods_will_do_with_or_without_the_base_class(quick):
    class Own:
        steps = 0

        def on_step(self, step):
            self.steps = step

    class Derived(Callback):
        ended = None

        def on_end(self, run):
            self.ended = run.step

    own, derived = Own(), Derived()
    quick(steps=2, callbacks=(own, derived))
    assert (own.steps, derived.ended) == (2, 2)


def stop_by_word(step):
    return "stop" if step == 2 else None


def stop_by_exception(step):
    if step == 2:
        raise StopRun


@pytest.mark.parametrize("stop", [stop_by_word, stop_by_exception])
def test_a_callback_stops_a_run_as_ctrl_c_does_and_it_can_go_on(quick, tmp_path, stop):
    class Stopping:
        def on_step(self, step):
            return stop(step)

    seen = Recorder()
    run = quick(steps=4, out="parts", callbacks=[Stopping(), seen])
    assert (run.state, run.step) == ("interrupted", 2)
    assert run.checkpoints[-2:] == ["step-2", "last"]
    assert [ended.state for (ended,) in seen.of("on_end")] == ["interrupted"]
    assert seen.of("on_checkpoint") == [[2, run.folder / "checkpoints/step-2"]]
    assert dimo_cli.sample(f"{run.folder}@last", classes=[3])
    dimo_cli.resume(run)
    quick(steps=4, out="straight")
    assert same(tmp_path / "straight", run.folder, WEIGHTS)


@pytest.mark.parametrize("moment", ["on_start", "on_log", "on_preview", "on_checkpoint"])
def test_a_run_can_be_stopped_at_any_moment(quick, moment):
    stopping = type("Stopping", (), {moment: lambda *arguments: "stop"})()
    seen = Recorder()
    run = quick(steps=5, callbacks=[stopping, seen])
    assert run.step == {"on_start": 1, "on_log": 1, "on_preview": 2, "on_checkpoint": 3}[moment]
    assert run.state == "interrupted"
    assert len(seen.of("on_checkpoint")) == 1


def test_any_other_error_of_a_callback_comes_out_and_the_run_can_go_on(quick):
    class Broken(Recorder):
        def on_log(self, record):
            raise ZeroDivisionError

    broken = Broken()
    with pytest.raises(ZeroDivisionError):
        quick(steps=4, out="run", callbacks=[broken])
    assert [run.state for (run,) in broken.of("on_end")] == ["interrupted"]
    assert dimo_cli.resume("run").state == "finished"


def test_alarms_are_told_once_with_their_cure(quick):
    seen = Recorder()
    with pytest.raises(DivergedError):
        quick(steps=60, out="run", set=RUINOUS, callbacks=[seen])
    (name, message), *others = seen.of("on_alarm")
    assert (name, others) == ("collapse", [])
    assert "Lower `student.optimizer.learning_rate`" in message
    assert [run.state for (run,) in seen.of("on_end")] == ["diverged"]


def test_notes_are_what_the_command_would_say(quick):
    seen = Recorder()
    quick(steps=1, set={"init.embed_noise.sigma": 0.1}, callbacks=[seen])
    assert any("Embedding noise: sigma 0.1" in message for (message,) in seen.of("on_note"))


class Mistyped:
    def on_stpe(self, step):
        return None


class Empty:
    pass


@pytest.mark.parametrize(
    ("callbacks", "told", "hint"),
    [
        ([Mistyped()], "`Mistyped` has a method `on_stpe`", "Did you mean `on_step`?"),
        ([Empty()], "`Empty` has none of the methods", "on_start, on_step"),
        ([Callback], "has the class `Callback`", r"callbacks=\[Callback\(\)\]"),
        (Callback(), "`callbacks` is a Callback", "Give a list"),
    ],
)
def test_a_callback_that_would_never_be_called_is_refused(quick, callbacks, told, hint):
    with pytest.raises(SpecError, match=told) as caught:
        quick(callbacks=callbacks)
    assert caught.match(told)
    assert hint.replace("\\", "") in caught.value.hint


def test_an_answer_that_means_nothing_is_refused(quick):
    class Wrong:
        def on_step(self, step):
            return True

    with pytest.raises(SpecError, match="`on_step` of the callback `Wrong` returned True"):
        quick(callbacks=[Wrong()])


def test_progress_is_silent_unless_asked_for_and_then_goes_where_it_is_told(quick, capsys):
    lines = []
    quick(steps=2, progress=lines.append)
    assert lines[-1].startswith("step 2/2")
    assert "Training from step 0 to 2." in lines
    assert capsys.readouterr() == ("", "")
    quick(steps=2, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "step 2/2" in printed.err


def test_the_base_class_does_nothing(quick):
    assert quick(steps=1, callbacks=[Callback()]).state == "finished"
    assert Run("runs/digits").step == 1
