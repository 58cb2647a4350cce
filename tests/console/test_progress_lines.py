"""Progress moves with every step, and says how long it will take, in a terminal and in a pipe."""

from rich.console import Console

from dimo_cli.console import pace, progress
from dimo_cli.console.live import LiveView, PlainView
from dimo_cli.console.output import Output
from dimo_cli.console.pace import Pace, plain_progress
from dimo_cli.console.progress import counting, tracking


def ticking(monkeypatch, seconds):
    """A clock that moves on by so much each time it is read."""
    now = iter(range(0, 10**6, seconds))
    monkeypatch.setattr(pace.time, "monotonic", lambda: float(next(now)))


def test_the_time_left_is_known_from_the_second_step_on(monkeypatch):
    ticking(monkeypatch, 10)
    found = Pace(10)
    found.reach(1)
    assert found.words() == ""
    found.reach(2)
    assert found.words() == "0:01:20 left"


def test_piped_lines_come_between_the_lines_of_the_log_with_the_time_left():
    lines = []
    view = PlainView(lines.append, seconds=0.0)
    view.start(0, 20)
    for step in (1, 2, 3):
        view.step(step)
    assert [line.split("  ")[0] for line in lines[1:]] == ["step 2/20", "step 3/20"]
    assert all(line.endswith("left") for line in lines[1:])


def test_a_stage_in_a_pipe_says_where_it_is(monkeypatch):
    ticking(monkeypatch, 1)
    lines = []
    advance = plain_progress(lines.append, "measure", 300, 0.0)
    for _ in range(3):
        advance(100)
    assert lines == ["measure  200/300  " + lines[0].rpartition("  ")[2]]
    assert lines[0].endswith("left")


def test_the_bar_moves_with_every_step_and_the_panel_names_alarms():
    console = Console(force_terminal=True, width=110, height=40, record=True)
    view = LiveView(console, "a run")
    view.start(0, 20)
    view.step(3)
    view.log({"step": 3, "images_per_second": 1.0, "alarms": ["collapse"]})
    view.step(4)
    with console.capture() as capture:
        console.print(view.render())
    view.stop()
    assert "4/20" in capture.get()
    assert "alarm: collapse" in capture.get()


def test_what_counts_in_a_terminal_writes_lines_with_the_time_left_in_a_pipe(monkeypatch, capsys):
    ticking(monkeypatch, 1)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with counting(Output(), "sample", 300) as advance:
        for _ in range(3):
            advance(100)
    with tracking(Output(), "measure") as reach:
        for done in (10, 20, 30):
            reach(done, 30)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["sample", "200/300"], ["measure", "20/30"]]
    assert all(line.endswith("left") for line in lines)


def test_a_quiet_command_writes_no_lines(monkeypatch, capsys):
    ticking(monkeypatch, 1)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    out = Output()
    out.start(quiet=True)
    with counting(out, "sample", 3) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr().err == ""


def test_work_that_begins_anew_is_timed_anew(monkeypatch, capsys):
    ticking(monkeypatch, 1)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with tracking(Output(), "measure") as reach:
        for done, total in ((1, 3), (2, 3), (1, 9), (2, 9)):
            reach(done, total)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["2/3", "2/9"]
