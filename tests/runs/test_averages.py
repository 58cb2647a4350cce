"""`dimo ema`: students with averages of other lengths, out of what a run kept."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file

from dimo_cli.engine.lora import trained_part
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.power_ema import exponent_of, power_decay
from dimo_cli.errors import SpecError
from dimo_cli.specs.averages import read_lengths
from dimo_cli.specs.manifest import StudentManifest
from dimo_cli.students.published import open_student
from dimo_cli.training.trainer import Trainer
from tests.helpers.runs import copied, distilled

TRULY = 0.15
POST_HOC = {"every": 2}
STUDENT = {
    "optimizer": {"learning_rate": 4e-4, "warmup_steps": 2},
    "ema": {"decay": 0.9, "post_hoc": POST_HOC},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with snapshots, and an average of another length that was truly kept meanwhile."""
    folder, before = tmp_path_factory.mktemp("kept") / "a run", Trainer.train_one_step
    truly = {}

    def step(trainer):
        before(trainer)
        student = trainer.distillation.student
        if "ema" not in truly:
            import copy

            truly["ema"] = Ema(copy.deepcopy(student), student)
        decay = power_decay(exponent_of(TRULY), trainer.progress.step)
        truly["ema"].update(decay)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_one_step", step)
        distilled(folder, steps=20, train={"checkpoint_every": 10}, student=STUDENT)
    return folder, truly["ema"].network.state_dict()


@pytest.fixture
def run(kept, tmp_path):
    return copied(kept[0], tmp_path / "a run")


def weights(folder):
    return load_file(folder / "model.safetensors")


def manifest(folder):
    return StudentManifest.model_validate_json((folder / "dimo.json").read_text())


def apart(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in other)


def test_a_length_that_was_kept_comes_back_exactly(dimo, run):
    done = dimo("ema", run, "--length", "0.05,0.1", "--json")
    assert done.exit_code == 0, done.output
    last = load_file(run / "ema" / "step-000020.safetensors")
    for length, part in ((0.05, "short"), (0.1, "long")):
        found = weights(run / f"student-ema-{length}")
        stored = {
            name.removeprefix(f"{part}/"): weight
            for name, weight in last.items()
            if name.startswith(f"{part}/")
        }
        assert apart(found, stored) < 1e-6


def test_another_length_is_that_which_would_have_been_kept(dimo, run, kept):
    assert dimo("ema", run, "--length", TRULY).exit_code == 0
    found, own = weights(run / f"student-ema-{TRULY}"), weights(run / "student")
    # Ten snapshots: within a hundredth of what the weights moved by at all.
    moved = max((kept[1][name] - own[name]).abs().max().item() for name in own)
    assert apart(found, kept[1]) < max(0.01 * moved, 1e-5)


def test_what_it_writes_is_a_student_that_says_how_it_was_made(dimo, run):
    done = dimo("ema", run, "--length", "0.15")
    folder = run / "student-ema-0.15"
    chosen = manifest(folder).chosen
    assert (chosen.rule, chosen.step, chosen.length, chosen.snapshots) == ("average", 20, 0.15, 10)
    assert "average of length 0.15" in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} == {
        "dimo.json",
        "model.safetensors",
        "README.md",
        "preview.png",
    }
    hint = next(line for line in done.stderr.splitlines() if "Draw with" in line)
    words = shlex.split(hint.partition("`")[2].partition("`")[0])
    assert words[:3] == ["dimo", "sample", "--student"]
    assert open_student(words[3]).manifest.chosen == chosen
    assert dimo(*words[1:], "-n", 2, "--grid", "drawn.png").exit_code == 0


def test_measured_lengths_stand_beside_the_runs_own_and_the_best_is_kept(dimo, run):
    done = dimo(
        "ema", run, "--length", "0.06..0.2", "--points", 2, "--measure", "-n", 100, "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["averages"]
    assert [row["length"] for row in found] == [None, 0.06, 0.2]
    best = min(found, key=lambda row: row["value"])
    assert [row["best"] for row in found] == [row is best for row in found]
    kept = min(found[1:], key=lambda row: row["value"])
    assert [row["length"] for row in found if "student" in row] == [kept["length"]]
    chosen = manifest(run / f"student-ema-{kept['length']}").chosen
    assert (chosen.metric, chosen.value, chosen.images) == ("fid100", kept["value"], 100)


def test_two_calls_write_the_same_bytes(dimo, run):
    assert dimo("ema", run, "--length", "0.2", "--out", "one").exit_code == 0
    assert dimo("ema", run, "--length", "0.2", "--out", "two").exit_code == 0
    for name in ("dimo.json", "model.safetensors", "README.md", "preview.png"):
        assert (run.parent / "one" / name).read_bytes() == (run.parent / "two" / name).read_bytes()


def test_check_reads_snapshots_and_what_was_made_of_them(dimo, run):
    assert dimo("ema", run, "--length", "0.15").exit_code == 0
    assert dimo("check", run).exit_code == 0
    for path in (run / "ema" / "step-000010.safetensors", run / "student-ema-0.15" / "dimo.json"):
        path.write_bytes(path.read_bytes()[:-9])
    (run / "ema" / "step-000099.safetensors").write_bytes(b"stray")
    done = dimo("check", run, "--json")
    assert done.exit_code == 1
    assert {one["file"] for one in json.loads(done.stdout)["damaged"]} >= {
        "ema/snapshots.json",
        "ema/step-000010.safetensors",
        "student-ema-0.15/dimo.json",
    }


def test_a_damaged_snapshot_is_refused_and_the_others_are_enough(dimo, run):
    path = run / "ema" / "step-000010.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    done = dimo("ema", run, "--length", "0.1")
    assert done.exit_code == 3
    assert "step-000010.safetensors" in done.stderr
    assert "Delete that file" in done.stderr
    path.unlink()
    assert dimo("ema", run, "--length", "0.1").exit_code == 0


def test_a_run_without_snapshots_is_refused_with_what_to_set(dimo, finished_run):
    done = dimo("ema", finished_run, "--length", "0.1")
    assert done.exit_code == 3
    assert "has no snapshots" in done.stderr
    assert "student.ema.post_hoc.every" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--length", "0.3"], "0.01 to 0.28 are possible"),
        (["--length", "0.01"], "cannot be made from the 10 snapshots"),
        (["--length", "long"], "is no number"),
        (["--length", "0.2..0.1"], "from a lower to a higher"),
        (["--length", "-1"], "above 0"),
        (["--length", "0.1", "-n", "200"], "add that, or leave it out"),
        (["--length", "0.1,0.2", "--out", "x"], "2 students would be written"),
        (["--length", "0.1", "--out", "a run"], "is no student"),
        (["--length", "0.1", "--out", "a run/student"], "the run's own student"),
        ([], "Missing option"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(dimo, run, words, said):
    done = dimo("ema", run, *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_a_range_goes_by_equal_factors():
    assert read_lengths("0.02..0.2", 3) == (0.02, 0.0632, 0.2)
    assert read_lengths("0.1, 0.05,0.1", 5) == (0.1, 0.05)
    with pytest.raises(SpecError):
        read_lengths("..", 3)


def test_what_a_student_was_chosen_by_is_in_its_manifest_and_on_its_card(run, finished_run):
    from dimo_cli.students.published import look_at_student

    assert manifest(run / "student").chosen.rule == "last"
    assert "the run's last step, 20" in (run / "student" / "README.md").read_text()
    best = look_at_student(f"{finished_run}@best").chosen
    assert (best.rule, best.step, best.metric, best.value) == ("best", 2, "fid", 1.0)
    named = look_at_student(f"{finished_run}@step-2").chosen
    assert (named.rule, named.metric) == ("step", None)


def test_a_manifest_of_before_reads_and_writes_as_it_was(finished_run):
    from dimo_cli.students.folder import BUILTIN

    text = (BUILTIN["digits"] / "dimo.json").read_text()
    assert "chosen" not in StudentManifest.model_validate_json(text).model_dump_json()


def test_the_frozen_weights_are_the_teachers(dimo, run):
    assert dimo("ema", run, "--length", "0.2").exit_code == 0
    found, own = weights(run / "student-ema-0.2"), weights(run / "student")
    moving = load_file(run / "ema" / "step-000020.safetensors")
    frozen = [name for name in own if f"short/{name}" not in moving]
    assert frozen
    assert all(torch.equal(found[name], own[name]) for name in frozen)


def test_a_student_of_adapters_has_other_averages_of_its_adapters(dimo, tmp_path):
    student = {**STUDENT, "lora": {"rank": 2}}
    distilled(tmp_path / "lora", student=student)
    kept = load_file(tmp_path / "lora" / "ema" / "step-000006.safetensors")
    assert all("lora_" in name for name in kept)
    made = json.loads(dimo("ema", "lora", "--length", 0.1, "--json").stdout)
    folder = tmp_path / made["averages"][0]["student"]
    assert manifest(folder).lora.rank == 2
    found = trained_part(open_student(folder).backbone).state_dict()
    own = trained_part(open_student(tmp_path / "lora").backbone).state_dict()
    assert (
        found.keys()
        == own.keys()
        == {name.removeprefix("long/") for name in kept if "long" in name}
    )
    assert not all(torch.equal(found[name], own[name]) for name in own)
