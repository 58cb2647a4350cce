"""The commands, from a teacher's published files to what a student is used for, on the device.

Networks are of golden size, from a Hub on this machine, and the embedded ones as they are.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from tests.distributed.crew import SHARDED, free_port
from tests.gpu.conftest import DEVICE
from tests.helpers.students import OTHER_NETWORKS, PUBLISH, TEXT
from tests.runs.test_refine import Brightness, last_log
from tests.teachers.test_families import PROMPTS, SHORT_RUN, flags, succeed

pytestmark = pytest.mark.usefixtures("room_enough")

GOLDEN = {**PUBLISH, **OTHER_NETWORKS}
ENOUGH_FOR_A_CPU = ("maskbit", "maskgen-l")  # one of classes and one of prompts
PLAINLY = "train.compile=false"  # compiling is tested apart: it takes longer than all the rest
MANY_SETTINGS = (
    "teacher.guidance=2",
    "train.accumulate=2",
    "train.gradient_checkpointing=true",
    PLAINLY,
    "train.log_every=1",
    "auxiliary.fresh_samples=true",
    "masking.content=soft",
    "monitor.fid_every=0",
    "monitor.table_samples=0",
)
QUICK = flags(
    {},
    PLAINLY,
    "train.steps=3",
    "train.batch_size=8",
    "train.log_every=1",
    "monitor.fid_every=0",
    "monitor.table_samples=0",
    "monitor.preview_every=100",
    "monitor.preview_images=2",
)[2:]


def slow_on_a_cpu(test):
    """What other tests hold on a CPU is quick on a card alone."""
    return pytest.mark.slow(test) if DEVICE == "cpu" else test


def of_many_references(metric):
    """Ten thousand real pictures take seconds to be seen; `tests/evaluation` has both metrics."""
    marks = pytest.mark.slow if DEVICE == "cpu" else ()
    return pytest.param("shapes", metric, ("-n", 64), marks=marks)


def of_every_family(name):
    """On a CPU `tests/teachers/test_families.py` has the commands of every family anyway."""
    is_slow = DEVICE == "cpu" and name not in ENOUGH_FOR_A_CPU
    return pytest.param(name, marks=pytest.mark.slow if is_slow else ())


@pytest.mark.parametrize("name", [of_every_family(name) for name in GOLDEN])
def test_a_family_is_distilled_goes_on_and_draws(dimo, fake_hub, golden, tmp_path, device, name):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = flags(GOLDEN[name](fake_hub, golden))
    prompts = ("condition.prompts=prompts.txt",) if name in TEXT else ()
    values = {**dict(v.split("=", 1) for v in (*SHORT_RUN, *MANY_SETTINGS, *prompts))}
    short = flags({}, *(f"{key}={value}" for key, value in values.items()))[2:]
    run = succeed(dimo("distill", "--preset", name, *model, *short, "--json"))
    more = ("--set", "train.steps=3")
    succeed(dimo("distill", "--resume", run["run"], *more, "--json"))
    assert last_log(tmp_path / run["run"])["step"] == 3
    wanted = ("--prompt", PROMPTS[0]) if name in TEXT else ("--class", 1)
    drawn = (*wanted, "-n", 2, "--json")
    assert succeed(dimo("sample", "--student", run["run"], *drawn))["sampler"]["steps"] == 1
    teacher = succeed(dimo("sample", "--preset", name, "--teacher", "--steps", 3, *drawn, *model))
    assert teacher["sampler"]["sampler"] == "published"
    assert Image.open("samples.png").height >= 64


def test_a_text_student_is_refined_for_a_reward_and_optimized_for_a_prompt(
    dimo, fake_hub, golden, tmp_path, device, monkeypatch
):
    monkeypatch.setattr(
        "dimo_cli.rewards.registry.load_reward",
        lambda name, store, place: Brightness().to(place),
    )
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = flags(PUBLISH["amused-256"](fake_hub, golden))
    short = flags({}, *SHORT_RUN, PLAINLY, "condition.prompts=prompts.txt")[2:]
    run = succeed(dimo("distill", "--preset", "amused-256", *model, *short, "--json"))["run"]
    listed = ("--set", "condition.prompts=prompts.txt")
    succeed(dimo("refine", run, "--reward", "clip=1", *QUICK, *listed, "-o", "r", "--json"))
    assert "reward_clip" in last_log(tmp_path / "r")
    call = ("tteo", "r", "--prompt", PROMPTS[0], "--budget", "4x2", "--reward", "clip=1", "--json")
    (outcome,) = succeed(dimo(*call))["outcomes"]
    assert outcome["score_after"] >= outcome["score_before"]


def test_the_embedded_students_are_refined_with_a_gan_and_for_a_reward(dimo, tmp_path, device):
    succeed(dimo("refine", "digits", "--gan", *QUICK, "-o", "gan", "--json"))
    assert "discriminator_loss" in last_log(tmp_path / "gan")
    succeed(dimo("refine", "--resume", "gan", "--set", "train.steps=4", "--json"))
    assert last_log(tmp_path / "gan")["step"] == 4
    succeed(dimo("refine", "shapes", "--reward", "shapes_clip=1", *QUICK, "-o", "reward", "--json"))
    assert "reward_shapes_clip" in last_log(tmp_path / "reward")


def test_the_embedded_text_student_is_optimized_for_a_prompt(dimo, device):
    call = ("tteo", "shapes", "--prompt", "a red circle", "--budget", "4x2", "--json")
    (outcome,) = succeed(dimo(*call))["outcomes"]
    assert outcome["score_after"] >= outcome["score_before"]


@pytest.mark.parametrize(
    ("name", "metric", "images"),
    [
        ("digits", "all", ("-n", 64)),
        *(("shapes", metric, ("-n", 64)) for metric in ("fid", "clip")),
        *(of_many_references(metric) for metric in ("pr", "kid")),
        ("shapes", "image-reward", ("-n", 64)),
        ("shapes", "geneval", ()),  # its overall score is of all its prompts
    ],
)
def test_every_embedded_metric_measures(dimo, device, name, metric, images):
    document = succeed(dimo("eval", metric, name, *images, "--json", "--no-cache"))
    assert document["results"]


@slow_on_a_cpu  # `tests/exporting/test_export.py` has the files of both
@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_student_is_exported(dimo, tmp_path, device, name):
    succeed(dimo("export", name, "--out", "exported/model.pt2", "--json"))
    assert any((tmp_path / "exported").iterdir())


@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_pipeline_draws_on_the_device_in_every_precision(device):
    from dimo_cli import OneStepPipeline

    pipeline = OneStepPipeline.from_pretrained("digits").to(device)
    asked = {"class_labels": [3] * 4, "generator": torch.Generator().manual_seed(0)}
    assert len(pipeline(**asked).images) == 4
    pipeline.to(torch.bfloat16)
    assert len(pipeline(**asked).images) == 4


@slow_on_a_cpu  # `tests/distributed/test_launching.py` trains such a run
def test_a_run_whose_blocks_are_sharded_trains_on_one_device(tmp_path, device):
    own = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    job = {**own, "MASTER_PORT": free_port(), **SHARDED}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED_RUN, device.type],
        cwd=tmp_path,
        env={**os.environ, **job, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert last_log(tmp_path / "run")["step"] == 3


SHARDED_RUN = """
import sys
from pathlib import Path
import torch.distributed as dist
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
# As several processes are joined; alone, a process of dimo's joins nobody.
on_cpu = sys.argv[1] == "cpu"
dist.init_process_group("gloo" if on_cpu else "cpu:gloo,cuda:nccl")
spec = small_spec(train={"steps": 3, "device": sys.argv[1]})
trainer = Trainer(spec, load_teacher("digits"), Path("run"), Silent())
trainer.run()
assert trainer.is_sharded
assert trainer.stepper is trainer.distillation
assert trainer.progress.skipped == 0
dist.destroy_process_group()
"""
