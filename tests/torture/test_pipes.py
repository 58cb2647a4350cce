"""What is named as a file and is none: a reader of a pipe waits, and a device never ends."""

import os
import signal
from pathlib import Path

import pytest

from dimo_cli.commands.options import read_prompts
from dimo_cli.data.folders import Files
from dimo_cli.data.images import text_of
from dimo_cli.data.npz import Npz
from dimo_cli.errors import DimoError
from dimo_cli.evaluation.comparing import read_evaluation
from dimo_cli.files.torch_files import load_torch
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.access import Located
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.weights import read_published
from dimo_cli.metrics.inception import load_inception
from dimo_cli.metrics.prompts import read_lines
from dimo_cli.metrics.statistics_pickle import read_statistics_pickle
from dimo_cli.runs.prompts import attach_prompts
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import load_yaml
from dimo_cli.students.folder import read_manifest, read_weights
from dimo_cli.teachers.registry import load_skeleton


def prompts_of_a_run(path):
    spec = {"teacher": {"name": "shapes"}, "condition": {"prompts": str(path)}}
    attach_prompts(load_skeleton(DistillSpec.model_validate(spec).teacher),
                   DistillSpec.model_validate(spec))  # fmt: skip


def published_weights(path):
    file = HubFile("owner/net", path.name)
    located = Located(path, None, "a" * 64)
    read_published(Published((file,)), file, located, local=True, forget=lambda path: None)


READERS = {
    "spec": load_yaml,
    "prompts of a command": read_prompts,
    "prompts of a run": prompts_of_a_run,
    "prompts of a benchmark": read_lines,
    "captions": text_of,
    "picture": lambda path: Files(path.parent).open(path.name),
    "arrays": Npz,
    "statistics": read_statistics_pickle,
    "result of eval": read_evaluation,
    "manifest": read_manifest,
    "student": lambda path: read_weights(path, "a" * 64),
    "hash": file_sha256,
    "weights": load_torch,
    "published weights": published_weights,
}


@pytest.fixture
def promptly():
    """A reader that waits is an error after some seconds."""

    def late(*_):
        raise TimeoutError("it waits for a pipe")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_is_refused_unopened(tmp_path, promptly, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DimoError, match="pipe` is a pipe, not a file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["spec", "prompts of a run", "result of eval", "hash"])
def test_a_device_that_never_ends_is_refused_unopened(promptly, name):
    with pytest.raises(DimoError, match="`/dev/zero` is a device, not a file"):
        READERS[name](Path("/dev/zero"))


def test_a_pipe_as_inception_is_not_found_or_refused(tmp_path, promptly):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DimoError, match="pipe"):
        load_inception("clean", tmp_path / "pipe")
