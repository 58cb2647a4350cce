"""Everything that writes, as it is called, and what it leaves that can be compared."""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import typer.testing
from safetensors import safe_open

from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore
from dimo_cli.main import app
from dimo_cli.training.checkpoint import CheckpointFolder
from tests.helpers.fake_hub import TOKEN, FakeHub, Handler, serve
from tests.helpers.fake_hub_uploads import UploadHandler, UploadHub
from tests.helpers.pictures import class_folder
from tests.torture.harness import every_checkpoint_is_whole, numbers
from tests.torture.targets_files import torch_bytes

REPOSITORY = "maker/digits-1step"
WEIGHTS = {"a": torch.arange(100_000.0), "b": torch.zeros(3)}
PUBLISHED = Published((HubFile("owner/name", "weights.bin"),))
CLOCK = ("seconds", "images_per_second")


def command(*arguments):
    """A command line, as something that is done in a folder: its exit code and what it said."""

    def work(folder):
        words = arguments[0](folder) if callable(arguments[0]) else arguments
        result = typer.testing.CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stderr

    return work


def in_place(work):
    """Work whose caches, temporary files and working directory are in its folder."""

    def done(folder):
        (folder / "tmp").mkdir(exist_ok=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            with (
                patch.dict("os.environ", {"HF_HOME": str(folder / "hf"), "COLUMNS": "200"}),
                patch.object(tempfile, "tempdir", str(folder / "tmp")),
            ):
                return work(folder)
        finally:
            os.chdir(before)

    return done


def digest(path):
    """A hash of a file's bytes; of weights in any order, as safetensors shuffles their metadata."""
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        told = sorted((file.metadata() or {}).items())
        tensors = [(name, file.get_tensor(name)) for name in sorted(file.keys())]
    parts = [
        (name, str(t.dtype), tuple(t.shape), t.contiguous().numpy().tobytes())
        for name, t in tensors
    ]
    return hashlib.sha256(repr((told, parts)).encode()).hexdigest()


def files_in(*patterns):
    """Files by name, with a hash of their bytes."""

    def contents(folder, _):
        paths = [path for pattern in patterns for path in folder.glob(pattern)]
        return {
            path.relative_to(folder).as_posix(): digest(path)
            for path in paths
            if path.is_file() and not path.name.startswith(".")
        }

    return contents


def timeless(document):
    """A document without what depends on the clock."""
    if isinstance(document, dict):
        return {
            key: timeless(value)
            for key, value in document.items()
            if not any(word in key for word in ("second", "times_a_plain"))
        }
    return [timeless(entry) for entry in document] if isinstance(document, list) else document


def documents_in(pattern, *others):
    """As `files_in`, and JSON documents without what depends on the clock."""

    def contents(folder, hub):
        found = {
            path.relative_to(folder).as_posix(): timeless(json.loads(path.read_text()))
            for path in folder.glob(pattern)
        }
        return found | files_in(*others)(folder, hub)

    return contents


def run_contents(folder, _):
    """A run: its student, and the newest checkpoint and the log once its summary is there."""
    run = folder / "run"
    every_checkpoint_is_whole(run)
    found = files_in("run/student/*")(folder, None)
    if (run / "summary.json").exists():
        found["summary"] = json.loads((run / "summary.json").read_text())
        checkpoints = CheckpointFolder(run / "checkpoints")
        newest = checkpoints.path(checkpoints.steps()[-1])
        for path in newest.glob("*.safetensors"):
            found[f"{newest.name}/{path.name}"] = digest(path)
        found["log"] = numbers(run)
    return found


def exported(folder, _):
    """A program and its JSON, which knows its hash: with the program there is always its own."""
    found = files_in("out/*.pt2", "out/*.json")(folder, None)
    if "out/digits.pt2" in found:
        facts = json.loads((folder / "out" / "digits.json").read_text())
        assert facts["program_sha256"] == found["out/digits.pt2"]
    return found


def repository(_, hub):
    """What is in a repository: all of a student, or nothing of it."""
    repo = hub.repos.get(REPOSITORY)
    files = dict(repo.files()) if repo else {}
    files.pop(".gitattributes", None)
    assert len(files) in (0, 4), sorted(files)
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def read_weights(folder):
    found = HubStore().weights(PUBLISHED)
    assert all(found[name].equal(tensor) for name, tensor in WEIGHTS.items())
    return 0, ""


def weights_cache(folder, hub):
    """Downloads and what was made of them: each readable, each what it is called."""
    found = files_in("hf/dimo/weights/*.safetensors")(folder, hub)
    for path in folder.glob("hf/hub/models--*/snapshots/*/*"):
        assert path.read_bytes() == hub.files["owner/name", path.name]
        found[path.name] = digest(path)
    for path in folder.glob("hf/dimo/*.json"):
        json.loads(path.read_text())
    return found


def photos(folder):
    """Pictures that were taken at one time: a shard knows when its own are from."""
    class_folder(folder / "photos", 24)
    for picture in (folder / "photos").rglob("*.png"):
        os.utime(picture, (0, 0))


def weights_hub():
    hub = FakeHub()
    hub.add("owner/name", "weights.bin", torch_bytes(WEIGHTS, True))
    return hub


SHORT = ("student.optimizer.warmup_steps=2", "train.steps=4", "train.batch_size=8",
         "train.checkpoint_every=1", "train.log_every=1", "monitor.fid_every=2",
         "monitor.fid_samples=100", "monitor.table_samples=0",
         "monitor.preview_every=3")  # fmt: skip


def trains(*start):
    """A run that is begun, or goes on where there is one."""

    def words(folder):
        if (folder / "run" / "run.yaml").exists():
            return (start[0], "--resume", "run")
        return (*start, "--out", "run", *(w for setting in SHORT for w in ("--set", setting)))

    return command(words)


@dataclass(frozen=True)
class Writer:
    """One of the things that write."""

    work: object
    contents: object
    """What lies under its own name by now, given the folder and the hub."""
    lay_out: object = lambda folder: None
    hub: object = None
    """Makes a hub, if one is needed."""
    handler: type = Handler

    def do(self, folder):
        return in_place(self.work)(folder)

    @contextlib.contextmanager
    def with_hub(self):
        """A hub of its own, where it needs one."""
        if self.hub is None:
            yield None
            return
        hub = self.hub()
        server = serve(hub, self.handler)
        more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        with (
            patch.dict("os.environ", more),
            patch("huggingface_hub.constants.HF_HUB_DISABLE_XET", True),
        ):
            yield hub
        server.shutdown()
        server.server_close()


PROMPTS = ("--prompt", "a red circle", "--prompt", "two blue squares")
WRITERS = {
    "distill": Writer(trains("distill", "--preset", "digits"), run_contents),
    "refine": Writer(trains("refine", "digits", "--gan"), run_contents),
    "data encode": Writer(
        command("data", "encode", "photos", "--preset", "digits", "--out", "tokens",
                "--shard-size", 5),
        files_in("tokens/*"), photos,
    ),
    "eval ref build": Writer(
        command("eval", "ref", "build", "photos", "--features", "digits", "--out", "out/real.npz"),
        files_in("out/*"), photos,
    ),
    "tteo": Writer(
        command("tteo", "shapes", *PROMPTS, "--reward", "shapes_clip=1", "--starts", 2,
                "--iters", 1, "--out", "tteo"),
        documents_in("tteo/*/outcome.json", "tteo/*/*.png", "tteo/*/*.safetensors"),
    ),
    "export": Writer(command("export", "digits", "--out", "out/digits.pt2"), exported),
    "push": Writer(
        command("push", "digits", REPOSITORY), repository, hub=UploadHub, handler=UploadHandler,
    ),
    "eval cache": Writer(
        command("eval", "fid", "digits", "-n", 50),
        documents_in("hf/dimo/eval/*.json"),
    ),
    "weights cache": Writer(read_weights, weights_cache, hub=weights_hub),
    "sample": Writer(
        command("sample", "-n", 4, "--grid", "out/grid.png"),
        files_in("out/*"),
    ),
}  # fmt: skip
