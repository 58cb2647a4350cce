"""What the shell offers, asked as the shell asks: through the completion variables."""

import os
import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dimo_cli.main import app


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """What bash is offered for the last word of a line, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def ask(line):
        words = line.split(" ")
        asked = {
            "_DIMO_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        return CliRunner().invoke(app, [], prog_name="dimo", env=asked).stdout.split()

    return ask


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dimo dis", ["distill"]),
        ("dimo eval ge", ["geneval", "geneval-export", "geneval-import"]),
        ("dimo distill --pres", ["--preset"]),
        ("dimo distill --preset maskgit", ["maskgit", "maskgit-512"]),
        ("dimo refine x --preset dig", ["digits-gan"]),
        ("dimo presets show shapes-re", ["shapes-redi", "shapes-reward"]),
        ("dimo sample --class s", ["six", "seven"]),
        ("dimo sample --preset maskgit --teacher --class golden_", ["golden_retriever"]),
        ("dimo sample --student digits --class e", ["eight"]),
        ("dimo compare digits --class n", ["nine"]),
        ("dimo tteo d", ["digits"]),
        ("dimo tteo shapes --reward image", ["image_reward"]),
        ("dimo refine x --reward hps", ["hps_v2.0", "hps_v2.1"]),
        ("dimo eval all digits --max prec", ["precision="]),
        ("dimo eval fid --teacher maskgit", ["maskgit", "maskgit-512"]),
        ("dimo eval fid x --features in", ["inception"]),
        ("dimo sample --teacher --sampler h", ["halton"]),
        ("dimo distill --set train.batch", ["train.batch_size="]),
    ],
)
def test_what_begins_so_is_offered(offered, line, words):
    assert offered(line) == words


def test_runs_and_students_of_this_folder_are_offered(offered, tmp_path):
    for folder, mark in (("runs/a", "run.yaml"), ("mine", "dimo.json"), ("runs/b", "student")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / mark).touch()
    assert offered("dimo sample --student ") == ["digits", "emoji", "shapes", "mine", "runs/a"]
    assert offered("dimo push runs/") == ["runs/a"]


def test_checkpoints_of_a_run_are_offered_behind_an_at(offered, tmp_path):
    for step in (200, 400):
        folder = tmp_path / "runs" / "a" / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "contents.json").write_text('{"progress": {"best_step": 200}}')
    (tmp_path / "runs" / "a" / "run.yaml").touch()
    names = ["step-200", "step-400", "best", "last"]
    assert offered("dimo sample --student runs/a@") == [f"runs/a@{name}" for name in names]
    assert offered("dimo compare digits runs/a@b") == ["runs/a@best"]
    assert offered("dimo eval fid runs/a@step-4") == ["runs/a@step-400"]
    assert offered("dimo tteo nothing@") == []


def test_runs_are_offered_to_be_checked(offered, tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "run.yaml").touch()
    assert offered("dimo check runs/") == ["runs/a"]


def test_a_damaged_manifest_offers_classes_all_the_same(offered, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dimo.json").write_text("[]")
    assert "tench" in offered("dimo sample --student mine --class t")


@pytest.mark.parametrize(
    "line", ["dimo sample --student ", "dimo sample --class ", "dimo tteo x --reward "]
)
def test_an_answer_costs_no_torch_and_a_fraction_of_a_second(line, tmp_path):
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'numpy', 'transformers', 'diffusers', 'accelerate', 'PIL'}\n"
        "def check():\n    sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))\n"
        "atexit.register(check)\n"
        "sys.argv = ['dimo']\n"
        "from dimo_cli.main import main\n"
        "main()\n"
    )
    asked = {
        "_DIMO_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.split()
    assert done.stderr == ""
    # Seconds of the processor, so that a busy machine changes nothing; 0.3 on an idle one.
    assert after.ru_utime - before.ru_utime < 1.0
