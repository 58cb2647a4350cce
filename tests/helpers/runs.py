"""Runs of seconds whose folders other tests copy, break and continue."""

import json
import shutil
from unittest.mock import patch

from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from dimo_cli.runs.watcher import RunWatcher
from tests.conftest import small_spec


def distilled(folder, steps=6, resume=False, fids=(), **groups):
    """A run of digits that measures these numbers every two steps; what it said."""
    said = []
    train = {"steps": steps, "batch_size": 8, "checkpoint_every": 3, "log_every": 1}
    train |= groups.pop("train", {})
    monitor = {"fid_every": 2 if fids else 0}
    spec = small_spec(train=train, monitor=monitor, **groups)
    with patch.object(RunWatcher, "measure_metric", side_effect=list(fids)):
        distill(spec, folder, PlainView(said.append), resume)
    return said


def copied(run, folder):
    """A copy of a run, to be broken."""
    return shutil.copytree(run, folder)


def contents_of(run, step):
    """What a checkpoint of a run says of itself."""
    return json.loads((run / "checkpoints" / f"step-{step}" / "contents.json").read_text())


def change_contents(run, number, /, **values):
    """Make a checkpoint say something else; None takes the word away."""
    path = run / "checkpoints" / f"step-{number}" / "contents.json"
    document = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: v for name, v in document.items() if v is not None}))


def as_earlier(run):
    """Make a run what an earlier dimo wrote: without ids, with files alone in its contents."""
    (run / "run.json").unlink()
    for path in run.glob("checkpoints/step-*/contents.json"):
        path.write_text(json.dumps({"files": json.loads(path.read_text())["files"]}))


def unfinished(run, folder):
    """A copy of a finished run of six steps, as it was when it was killed after its fifth."""
    copied(run, folder)
    shutil.rmtree(folder / "checkpoints" / "step-6")
    shutil.rmtree(folder / "student")
    (folder / "summary.json").unlink()
    return folder
