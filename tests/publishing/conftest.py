"""A Hub on this machine to push to, a run and a student to push, and how to push them."""

import json
import shutil
import time

import huggingface_hub.constants as client
import pytest

from dimo_cli.console.live import PlainView
from dimo_cli.engine.lora import LoraSpec, new_adapters
from dimo_cli.runs.distill import distill
from dimo_cli.specs.manifest import LoraFacts
from dimo_cli.students.folder import BUILTIN, write_student
from dimo_cli.students.published import open_student
from dimo_cli.students.student import LoadOptions, Student
from tests.conftest import small_spec
from tests.helpers.fake_hub import TOKEN, let_the_client_log, serve
from tests.helpers.fake_hub_uploads import UploadHandler, UploadHub

NAME = "maker/digits-1step"
FILES = {"README.md", "dimo.json", "model.safetensors", "preview.png"}


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """An empty Hub without Xet, a login, and a client that does not wait."""
    let_the_client_log()
    hub = UploadHub()
    server = serve(hub, UploadHandler)
    home = tmp_path_factory.mktemp("hf")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(client, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of seconds, measured beside its teacher."""
    folder = tmp_path_factory.mktemp("run")
    spec = small_spec(monitor={"table_samples": 100, "teacher_steps": (1, 2)})
    distill(spec, folder, PlainView(lambda line: None))
    return folder


@pytest.fixture
def own(tmp_path):
    """A student folder that may be changed."""
    return shutil.copytree(BUILTIN["digits"], tmp_path / "own")


@pytest.fixture
def adapters(tmp_path):
    """The folder of a student that is its teacher with adapters, which may be changed."""
    plain = open_student("digits", LoadOptions(with_teacher=True, device="cpu"))
    network = new_adapters(plain.teacher.backbone, LoraSpec(rank=1), 0)
    manifest = plain.manifest.model_copy(update={"format": 2, "lora": LoraFacts(rank=1, alpha=1)})
    write_student(tmp_path / "adapters", Student(manifest, plain.teacher, network))
    return tmp_path / "adapters"


def pushed(dimo, *arguments):
    """The document of a push that succeeds."""
    result = dimo("push", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(dimo, code, *arguments):
    """The sentences of a push that fails."""
    result = dimo("push", *arguments)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.stderr
    assert TOKEN not in result.stdout + result.stderr
    return " ".join(result.stderr.split())
