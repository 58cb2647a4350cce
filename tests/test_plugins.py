"""Plugins of other packages: a broken one is named, and keeps nobody from anything else."""

import json
import shutil
from types import SimpleNamespace

import pytest

from dimo_cli import plugins
from dimo_cli.commands.frame import as_dimo_error
from dimo_cli.engine import divergence
from dimo_cli.engine.objectives import registry as objectives
from dimo_cli.errors import SpecError
from dimo_cli.rewards import registry as rewards
from dimo_cli.students.folder import BUILTIN
from dimo_cli.teachers import registry as teachers

GROUPS = {
    "dimo.teachers": (teachers.check_teacher, teachers, "EMBEDDED"),
    "dimo.rewards": (rewards.check_reward, rewards, "REWARDS"),
    "dimo.objectives": (objectives.check_objective, objectives, "OBJECTIVES"),
}


class Plugin:
    """An entry point that gives a value, or fails."""

    def __init__(self, name, value):
        self.name, self.value, self.dist = name, value, SimpleNamespace(name="other-package")

    def load(self):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@pytest.fixture
def installed(monkeypatch):
    """Let packages with these plugins be installed."""
    monkeypatch.setattr(plugins, "BROKEN", set())
    for _, module, name in GROUPS.values():
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setattr(divergence, "GENERATORS", dict(divergence.GENERATORS))

    def install(group, *found):
        all_of = {group: list(found)}
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: all_of.get(group, []))

    return install


MISSING = ModuleNotFoundError("No module named 'evil'", name="evil")
FAULTS = [MISSING, SyntaxError("x"), RuntimeError("\x1b[2J"), SystemExit(3)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("group", GROUPS)
def test_a_broken_plugin_is_named_once_and_blocks_no_other(installed, caplog, group, fault):
    check, _, _ = GROUPS[group]
    installed(group, Plugin("broken", fault), Plugin("mine", lambda *_: None))
    check("mine")
    for _ in range(2):
        with pytest.raises(SpecError, match="known"):
            check("nobody")
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "dimo_cli.plugins"]
    for words in ("`broken`", "other-package", type(fault).__name__):
        assert words in warning


def test_a_broken_generator_blocks_no_other(installed, caplog):
    installed("dimo.generators", Plugin("broken", MISSING), Plugin("mine", lambda u: u * u - 1))
    divergence.load_plugins()
    assert "mine" in divergence.GENERATORS
    assert "`broken`" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[dimo.rewards]\nno entry\n"])
def test_a_package_whose_metadata_cannot_be_read_blocks_no_other(
    monkeypatch, tmp_path, caplog, content
):
    """Python itself would refuse the entry points of all packages."""
    packages = {"bad": content, "good": b"[dimo.rewards]\nmine = json:loads\n"}
    for name, entries in packages.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_bytes(entries)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "BROKEN", set())
    found = {}
    for _ in range(2):
        plugins.register_plugins("dimo.rewards", found.__setitem__)
    assert found == {"mine": json.loads}
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "dimo_cli.plugins"]
    assert "bad-1.0.dist-info" in warning


def test_a_plugin_that_takes_a_name_of_another_is_left_out(installed, caplog):
    def first():
        return None

    installed("dimo.teachers", Plugin("mine", first), Plugin("mine", lambda: None))
    teachers.check_teacher("mine")
    assert teachers.EMBEDDED["mine"] is first
    assert "There is a teacher `mine` already" in caplog.text


def test_a_student_of_an_unknown_teacher_says_so_whatever_is_broken(
    installed, dimo, tmp_path, caplog
):
    """What is to be installed is never read from somebody's manifest."""
    installed("dimo.teachers", Plugin("broken", MISSING))
    own = shutil.copytree(BUILTIN["digits"], tmp_path / "own")
    manifest = json.loads((own / "dimo.json").read_text())
    manifest["teacher"]["name"] = "evil-teacher"
    (own / "dimo.json").write_text(json.dumps(manifest))
    result = dimo("sample", "--student", own)
    assert result.exit_code == 3
    assert "needs the teacher `evil-teacher`" in result.stderr
    assert "pip install" not in result.output
    assert "`broken`" in caplog.text


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("evil", "beside dimo"),
        ("torchvision.transforms", "pip install torchvision"),
        ("wandb", "pip install wandb"),
        ("open_clip", "pip install open_clip_torch"),
        ("cleanfid", "pip install clean-fid"),
    ],
)
def test_only_what_dimo_itself_needs_is_named_for_installing(module, hint):
    error = as_dimo_error(ModuleNotFoundError("no", name=module))
    assert hint in error.hint
    assert ("pip install" in error.hint) == hint.startswith("pip")
