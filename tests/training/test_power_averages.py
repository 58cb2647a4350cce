"""The two averages that a run may keep for `dimo ema`, and their snapshots."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec


def with_snapshots(steps=6, **post_hoc):
    average = {"decay": 0.9, "post_hoc": {"every": 2, **post_hoc}}
    train = {"steps": steps, "batch_size": 4, "checkpoint_every": 3, "log_every": 1}
    optimizer = {"learning_rate": 4e-4, "warmup_steps": 2}
    return small_spec(student={"optimizer": optimizer, "ema": average}, train=train)


def trained(spec, teacher, folder, resume=False):
    trainer = Trainer(spec, teacher, folder, Silent())
    trainer.run(resume)
    return trainer


def snapshots(folder):
    return {path.name: load_file(path) for path in sorted((folder / "ema").glob("*.safetensors"))}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_that_goes_on_has_the_snapshots_of_one_that_was_never_stopped(teacher, tmp_path):
    whole = trained(with_snapshots(), teacher, tmp_path / "whole")
    trained(with_snapshots(steps=4), teacher, tmp_path / "halved")
    spec = with_snapshots()
    later = trained(spec, teacher, tmp_path / "halved", resume=True)
    found, wanted = snapshots(tmp_path / "halved"), snapshots(tmp_path / "whole")
    assert list(wanted) == [f"step-00000{step}.safetensors" for step in (2, 4, 6)]
    assert found.keys() == wanted.keys()
    assert all(same(found[name], wanted[name]) for name in wanted)
    for name, network in whole.power.networks().items():
        assert same(network.state_dict(), later.power.networks()[name].state_dict())


def test_snapshots_of_steps_that_are_trained_again_are_written_again(teacher, tmp_path):
    trainer = trained(with_snapshots(), teacher, tmp_path)
    before = json.loads((tmp_path / "ema" / "snapshots.json").read_text())
    trainer.power.forget_after(3)
    assert list(snapshots(tmp_path)) == ["step-000002.safetensors"]
    listed = json.loads((tmp_path / "ema" / "snapshots.json").read_text())
    assert list(listed["files"]) == ["step-000002.safetensors"]
    assert before["files"].keys() > listed["files"].keys()


def test_a_snapshot_holds_what_is_trained_and_nothing_else(teacher, tmp_path):
    trainer = trained(with_snapshots(), teacher, tmp_path)
    student = trainer.distillation.student
    moving = {name for name, weight in student.named_parameters() if weight.requires_grad}
    found = snapshots(tmp_path)["step-000006.safetensors"]
    assert found.keys() == {f"{part}/{name}" for part in ("short", "long") for name in moving}


def test_without_snapshots_nothing_is_kept_and_a_run_with_them_trains_alike(teacher, tmp_path):
    plain = with_snapshots(every=None)
    without = trained(plain, teacher, tmp_path / "without")
    kept = trained(with_snapshots(), teacher, tmp_path / "with")
    assert not (tmp_path / "without" / "ema").exists()
    assert without.networks().keys() == {"student", "auxiliary", "ema"}
    for name, network in without.networks().items():
        assert same(network.state_dict(), kept.networks()[name].state_dict())


@pytest.mark.parametrize(
    ("post_hoc", "said"),
    [
        ({"every": 4}, "at most half of train.steps"),
        ({"lengths": [0.1, 0.05]}, "a shorter and a longer length"),
        ({"lengths": [0.05, 0.5]}, "from 0.01 to 0.28"),
    ],
)
def test_settings_that_could_make_no_average_are_refused(post_hoc, said):
    with pytest.raises(ValueError, match=said):
        with_snapshots(**post_hoc)


def test_sharding_and_snapshots_do_not_go_together():
    from dimo_cli.engine.sharding import check_shardable

    with pytest.raises(SpecError, match=r"student\.ema\.post_hoc"):
        check_shardable(with_snapshots())
    check_shardable(DistillSpec())
