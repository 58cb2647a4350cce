"""The commands as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dimo_cli import __version__

QUICK = ("--set", "train.steps=3", "--set", "train.batch_size=8", "--set", "monitor.fid_every=0")
NO_TABLE = ("--set", "monitor.table_samples=0")


def python(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **kwargs
    )


def test_specs_and_presets_do_without_torch():
    code = (
        "import sys\n"
        "from dimo_cli.specs.distill import DistillSpec\n"
        "from dimo_cli.specs.resolve import resolve_spec\n"
        "import dimo_cli.console.images, dimo_cli.console.live, dimo_cli.runs.tables\n"
        "resolve_spec(DistillSpec, preset='digits')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert python("-c", code).returncode == 0


def test_drawing_imports_of_torch_only_what_it_needs():
    code = (
        "import sys\n"
        "import dimo_cli.sampling.samplers, dimo_cli.students.student\n"
        "heavy = {'transformers', 'diffusers', 'accelerate', 'sympy', 'torch.distributed.tensor'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "command",
    [("distill",), ("sample",), ("compare",), ("report",), ("eval", "fid"), ("presets", "list"),
     ("presets", "show"),
     ("presets", "cp"), ("spec", "check"), ("spec", "schema"), ("doctor",), ("export",)],
)  # fmt: skip
def test_every_help_page_has_an_example(dimo, command):
    page = dimo(*command, "--help")
    assert page.exit_code == 0
    assert f"dimo {command[0]}" in page.stdout.split("Examples:")[1]


def test_version_is_the_packages(dimo):
    assert dimo("--version").stdout == f"dimo {__version__}\n"
    assert python("-m", "dimo_cli", "--version").stdout == f"dimo {__version__}\n"


def test_a_mistyped_command_is_guessed(dimo):
    result = dimo("distil", "--preset", "digits")
    assert result.exit_code == 2
    assert "distill" in result.stderr


def test_shell_completion_is_there(dimo, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert dimo("--show-completion", "bash").exit_code == 0


@pytest.mark.usefixtures("unrehearsed")
def test_presets_are_listed_shown_and_copied(dimo, tmp_path):
    assert "digits" in dimo("presets", "list").stdout
    assert "digits" in json.loads(dimo("presets", "list", "--json").stdout)["presets"]
    shown = dimo("presets", "show", "digits").stdout
    assert "learning_rate: 0.0004" in shown
    assert "# Largest gradient norm" in shown
    assert dimo("presets", "cp", "digits", "mine.yaml").exit_code == 0
    assert dimo("presets", "cp", "digits", "mine.yaml").exit_code == 2
    assert dimo("presets", "cp", "digits", "mine.yaml", "--force").exit_code == 0
    assert dimo("spec", "check", "mine.yaml").exit_code == 0


def test_spec_check_shows_where_each_value_comes_from(dimo, tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: digits\ntrain:\n  steps: 77\n")
    result = dimo("spec", "check", "mine.yaml", "--set", "train.seed=5")
    assert "mine.yaml, line 3" in result.stdout
    assert "flag --set train.seed" in result.stdout
    document = json.loads(dimo("spec", "check", "mine.yaml", "--json").stdout)
    assert document["origins"]["train.steps"] == "mine.yaml, line 3"
    assert document["spec"]["train"]["steps"] == 77


def test_a_dry_run_shows_spec_memory_and_plan_and_trains_nothing(dimo, tmp_path):
    arguments = ("distill", "--preset", "digits", "--dry-run", "--set", "train.steps=50")
    result = dimo(*arguments)
    assert result.exit_code == 0
    for words in ("207,185 parameters", "3,200 generated samples", "4 forward passes", "memory",
                  "flag --set train.steps", "runs/digits"):  # fmt: skip
        assert words in result.stdout
    assert list(tmp_path.iterdir()) == []
    document = json.loads(dimo(*arguments, "--json").stdout)
    assert document["plan"]["steps"] == 50
    assert document["memory_bytes"]["total"] > 10**6
    assert document["origins"]["train.steps"] == "flag --set train.steps"


def test_distill_sample_and_eval_work_together(dimo, tmp_path):
    result = dimo("distill", "--preset", "digits", *QUICK, "--set", "monitor.table_samples=100")
    assert result.exit_code == 0, result.stderr
    for words in ("teacher, 1 step", "teacher, 16 steps", "student, 1 step", "speed-up",
                  "Student saved to runs/digits/student"):  # fmt: skip
        assert words in result.stdout
    run = tmp_path / "runs" / "digits"
    for name in ("run.yaml", "log.jsonl", "summary.json", "student/dimo.json",
                 "samples/step-000003.png", "checkpoints/step-3/state.pt"):  # fmt: skip
        assert (run / name).is_file(), name

    result = dimo("sample", "--student", run, "--class", 7, "-n", 4, "--seed", 3, "--out", "all",
                  "--grid", "out.png", "--json")  # fmt: skip
    document = json.loads(result.stdout)
    assert document["classes"] == ["seven"] * 4
    assert document["files"][0] == "out.png"
    assert len(list((tmp_path / "all").iterdir())) == 4
    with Image.open(tmp_path / "out.png") as image:
        assert image.text["dimo.class"] == "seven"
        assert image.text["dimo.seed"] == "3"
        assert image.text["dimo.version"] == __version__
        assert len(image.text["dimo.student"]) == 64

    result = dimo("eval", "fid", run, "--samples", 200, "--json", "--max", 1000)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["passed"] is True
    assert list(document["values"]) == ["fid200"]
    result = dimo("eval", "fid", run, "--samples", 200, "--json", "--max", 0.001)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False
    assert "Gate failed" in result.stderr


def test_a_taken_run_folder_is_refused_and_a_default_one_gets_a_number(dimo, tmp_path):
    arguments = ("distill", "--preset", "digits", *QUICK, *NO_TABLE)
    assert dimo(*arguments, "--out", "here").exit_code == 0
    again = dimo(*arguments, "--out", "here")
    assert again.exit_code == 2
    assert "--resume here" in again.stderr
    assert dimo(*arguments).exit_code == 0
    assert dimo(*arguments).exit_code == 0
    assert (tmp_path / "runs" / "digits-2" / "student").is_dir()


@pytest.mark.parametrize(
    "mistake",
    [
        "teacher.name=nothing",
        "loss.divergence={kind: generator, name: nothing}",
        "init={control: fixed_image_token, control_token: 99}",
    ],
)
def test_a_refused_run_leaves_no_folder(dimo, tmp_path, mistake):
    result = dimo("distill", "--preset", "digits", "--set", mistake)
    assert result.exit_code == 2, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_made_longer_but_not_into_another(dimo, tmp_path):
    assert dimo("distill", "--preset", "digits", *QUICK, *NO_TABLE, "--out", "r").exit_code == 0
    refused = dimo("distill", "--resume", "r", "--set", "init.mask_ratio=0.4")
    assert refused.exit_code == 2
    assert "`init.mask_ratio.value`" in refused.stderr
    longer = dimo("distill", "--resume", "r", "--set", "train.steps=5", "--json")
    assert longer.exit_code == 0, longer.stderr
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "r/log.jsonl").read_text().split("\n")
        if line
    ]
    assert steps[-1] == 5


def test_json_puts_one_document_on_stdout_and_nothing_else(dimo):
    result = dimo("distill", "--preset", "digits", *QUICK, *NO_TABLE, "--json")
    assert set(json.loads(result.stdout)) == {"run", "student", "weights_sha256"}
    failed = dimo("sample", "--student", "nowhere", "--json")
    assert failed.exit_code == 3
    assert json.loads(failed.stdout)["exit_code"] == 3


def test_quiet_says_nothing_but_the_result(dimo):
    result = dimo("distill", "--preset", "digits", *QUICK, *NO_TABLE, "--quiet")
    assert result.stderr == ""
    assert result.stdout.startswith("Student saved to")


def test_plain_output_has_no_escape_codes(dimo):
    result = dimo("distill", "--preset", "digits", *QUICK, *NO_TABLE)
    assert "\x1b" not in result.stdout + result.stderr
    assert "Training from step 0 to 3." in result.stderr


def test_the_built_in_student_is_sampled_by_default(dimo, tmp_path):
    result = dimo("sample", "--class", "seven", "--class", "3", "-n", "6")
    assert result.exit_code == 0
    assert "6 images" in result.stdout
    assert (tmp_path / "samples.png").is_file()


def test_the_same_seed_gives_the_same_picture(dimo, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        dimo("sample", "-n", "10", "--seed", seed, "--grid", f"{name}.png")
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_the_teacher_can_be_sampled_for_comparison(dimo, tmp_path):
    result = dimo("sample", "--teacher", "--steps", "4", "--class", "2", "-n", "3", "--json")
    assert json.loads(result.stdout)["sampler"]["steps"] == 4
    with Image.open(tmp_path / "samples.png") as image:
        assert image.text["dimo.student"] == "none"
        assert image.text["dimo.teacher"] == "digits@1"


def test_eval_measures_the_teacher_as_well(dimo):
    result = dimo("eval", "fid", "digits", "--teacher", "--steps", "2", "-n", "100", "--json")
    assert json.loads(result.stdout)["subject"]["network"] == "teacher:digits"
    table = dimo("eval", "fid", "digits", "-n", "100").stdout
    for words in ("fid100", "digits-train-1797", "digits-cnn-64", "student_sha256"):
        assert words in table


def test_an_unwritable_place_exits_3(dimo, tmp_path):
    (tmp_path / "file").touch()
    assert dimo("sample", "--grid", "file/x.png").exit_code == 3
    assert dimo("distill", "--preset", "digits", *QUICK, "--out", "file/run").exit_code == 3


def test_resuming_nothing_exits_3(dimo):
    assert dimo("distill", "--resume", "nowhere").exit_code == 3


def test_a_run_that_diverges_exits_4(dimo):
    # An entropy bonus beyond all measure overflows the gradient at once.
    result = dimo("distill", "--preset", "digits", *QUICK, *NO_TABLE, "--set", "train.steps=50",
                  "--set", "loss.entropy_bonus=1e39", "--set", "recovery.max_skipped=2",
                  "--set", "recovery.max_rollbacks=1")  # fmt: skip
    assert result.exit_code == 4
    assert "diverged" in result.stderr
    assert "Rolled back" in result.stderr


def test_doctor_reports_every_check(dimo):
    document = json.loads(dimo("doctor", "--offline", "--json").stdout)
    names = [check["name"] for check in document["checks"]]
    assert names == ["Python", "packages", "torch", "device", "bf16", "memory", "disk", "cache",
                     "Hub", "login", "built-in students"]  # fmt: skip
    assert all(check["found"] for check in document["checks"])


def test_doctor_says_what_to_do_about_a_hub_that_cannot_be_reached(dimo, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    checks = {c["name"]: c for c in json.loads(dimo("doctor", "--json").stdout)["checks"]}
    assert checks["Hub"]["state"] == "note"
    assert "HF_ENDPOINT" in checks["Hub"]["advice"]


def test_doctor_exits_3_where_the_disk_is_full(dimo, monkeypatch):
    full = SimpleNamespace(total=2**40, used=2**40, free=2**20)
    monkeypatch.setattr("dimo_cli.planning.health.shutil.disk_usage", lambda _: full)
    result = dimo("doctor", "--offline")
    assert result.exit_code == 3
    assert "Not ready: disk" in result.stderr
    assert "Free at least 1 GiB" in result.stdout


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_a_signal_to_the_real_program_leaves_a_run_that_resumes(tmp_path, number, code):
    arguments = ["-m", "dimo_cli", "distill", "--preset", "digits", "--out", "r", *QUICK[2:],
                 *NO_TABLE, "--set", "train.steps=100000"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "r" / "log.jsonl").exists():
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == code, talk
    assert "checkpoint written" in talk
    assert "Traceback" not in talk
    assert list((tmp_path / "r" / "checkpoints").glob("step-*"))


@pytest.mark.usefixtures("unrehearsed")
def test_flags_of_refine_beat_a_spec_file_and_set_beats_both(dimo, tmp_path, monkeypatch):
    monkeypatch.setattr("dimo_cli.runs.inputs.check_inputs", lambda spec: [])  # no data here
    (tmp_path / "mine.yaml").write_text(
        "start: other\n"
        "gan: {enabled: false}\n"
        "reward:\n  terms: {shapes_clip: 1.0}\n"
        "init: {mask_ratio: 0.5}\n"
    )
    flags = ("--spec", "mine.yaml", "--gan", "--reward", "shapes_clip=3", "--dry-run", "--json")
    document = json.loads(dimo("refine", "shapes", *flags).stdout)
    spec, origins = document["spec"], document["origins"]
    assert spec["gan"]["enabled"]
    assert spec["reward"]["terms"] == {"shapes_clip": 3.0}
    assert spec["start"] == "shapes"
    assert spec["init"]["mask_ratio"]["value"] == 0.5, "what a student brings along is no flag"
    assert origins["gan.enabled"] == "flag --gan"
    assert origins["reward.terms"] == "flag --reward shapes_clip"
    assert origins["start"] == "argument STUDENT"
    more = ("--set", "gan.enabled=false", "--set", "reward.terms.shapes_clip=4")
    spec = json.loads(dimo("refine", "shapes", *flags, *more).stdout)["spec"]
    assert not spec["gan"]["enabled"]
    assert spec["reward"]["terms"] == {"shapes_clip": 4.0}


@pytest.mark.usefixtures("unrehearsed")
def test_rewards_that_are_named_take_the_place_of_the_presets(dimo):
    named = ("--reward", "shapes_preference=2", "--set", "reward.held_out=shapes_clip")
    plan = json.loads(dimo("refine", "shapes", *named, "--dry-run", "--json").stdout)
    assert plan["spec"]["reward"]["terms"] == {"shapes_preference": 2.0}


def test_what_is_trained_for_is_not_held_out(dimo):
    result = dimo("refine", "shapes", "--reward", "shapes_witness", "--dry-run")
    assert result.exit_code == 2
    assert "held_out is shapes_witness, which is trained for" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("presets", "list"), ("presets", "show", "digits"), ("doctor", "--offline"),
     ("sample", "-n", "1"), ("presets", "cp", "digits", "mine.yaml")],
)  # fmt: skip
def test_quiet_leaves_the_result_alone(dimo, arguments):
    result = dimo(*arguments, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout


@pytest.mark.parametrize(
    ("processes", "threads", "words"),
    [(1, 1, ", 1 thread)"), (1, 4, ", 4 threads)"), (2, 1, ", 2 processes of 1 thread)")],
)
def test_hardware_is_counted_in_words(monkeypatch, processes, threads, words):
    import torch

    from dimo_cli.run_folder.effort import hardware_name

    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert hardware_name(torch.device("cpu"), processes).endswith(words)
