"""Several ranks train what one process does, whole or sharded, and go on from each other."""

import copy
import json

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from dimo_cli.distributed.ranks import is_first, joined_ranks
from dimo_cli.engine.bregman import sample_factors
from dimo_cli.engine.lora import fingerprint, new_adapters, trained_part
from dimo_cli.engine.optimizer import average_over_ranks
from dimo_cli.engine.sharding import is_sharded, local, own_rows, shard_blocks
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.linear_maps import blocks_of
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.spread import make_whole, spread
from dimo_cli.teachers.stored import store
from dimo_cli.training.checkpoint import CheckpointFolder
from tests.distributed.crew import (
    SHARDED,
    Crew,
    largest_difference,
    newest,
    train_with,
    weights,
)
from tests.engine.test_lora import disturb
from tests.teachers.test_families import CLASS_FAMILIES, TEXT_FAMILIES

STEPS = {"steps": 20, "checkpoint_every": 10, "log_every": 5}
BAR = 1e-5


def optimizer(rate):
    """With a large `eps`: what has no gradient but for rounding (the bias of attention keys) stays.

    Adam would blow it up to a step of full size, of either sign.
    """
    return {"learning_rate": rate, "warmup_steps": 2, "eps": 1e-3}


SMOOTH = {
    "student": {"optimizer": optimizer(4e-4), "ema": {"decay": 0.9}},
    "auxiliary": {"optimizer": optimizer(2e-3)},
}


def generator_state(folder):
    state = torch.load(newest(folder) / "state.pt", weights_only=True)
    return state["random"]["run"]


def test_two_ranks_train_what_one_process_does_with_accumulation(tmp_path):
    train_with(1, tmp_path / "one", train={**STEPS, "batch_size": 4, "accumulate": 2})
    train_with(2, tmp_path / "two", train={**STEPS, "batch_size": 8})
    assert largest_difference(tmp_path / "one", tmp_path / "two") < BAR
    assert generator_state(tmp_path / "one").equal(generator_state(tmp_path / "two"))
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [record["step"] for record in logs[1]] == [5, 10, 15, 20]
    for one, two in zip(*logs, strict=True):
        for key in ("student_gradient", "auxiliary_loss", "auxiliary_gradient"):
            assert one[key] == pytest.approx(two[key], rel=1e-4)


def test_one_sharded_rank_trains_what_one_process_does(tmp_path):
    both = {**SMOOTH, "train": {**STEPS, "batch_size": 4}}
    train_with(1, tmp_path / "one", **both)
    train_with(1, tmp_path / "sharded", environment=SHARDED, **both)
    assert list((tmp_path / "sharded" / "checkpoints").rglob("student-00000-of-00001.safetensors"))
    assert largest_difference(tmp_path / "one", tmp_path / "sharded") < BAR


def test_what_a_sample_counts_in_di_bregman_is_of_all_ranks(tmp_path):
    logits = torch.linspace(-2, 2, 8)

    def weigh(rank):
        with joined_ranks():
            torch.save(sample_factors("neyman", logits[4 * rank :][:4]), tmp_path / f"{rank}.pt")

    assert Crew(2, weigh).codes() == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    factors, mean, share = sample_factors("neyman", logits)
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), factors)
    assert all(half[1].isclose(mean) and half[2].isclose(share) for half in halves)
    assert not torch.allclose(sample_factors("neyman", logits[:4])[0], factors[:4])


@pytest.mark.slow
def test_sharded_adapters_train_as_whole_ones_do_and_go_on_as_such(tmp_path):
    student = {**SMOOTH["student"], "lora": {"rank": 4}}
    both = {**SMOOTH, "student": student, "train": {**STEPS, "batch_size": 4}}
    train_with(1, tmp_path / "one", **both)
    train_with(1, tmp_path / "one sharded", environment=SHARDED, **both)
    assert largest_difference(tmp_path / "one", tmp_path / "one sharded") < BAR
    train_with(2, tmp_path / "two", **both)
    half = {**both, "train": {**both["train"], "steps": 10}}
    train_with(2, tmp_path / "sharded", environment=SHARDED, **half)
    written = newest(tmp_path / "sharded") / "student-00001-of-00002.safetensors"
    assert all("lora_" in name for name in load_file(written))
    train_with(2, tmp_path / "sharded", resume=True, **both)
    assert largest_difference(tmp_path / "two", tmp_path / "sharded") < BAR


@pytest.mark.slow
@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"train": {"gradient_checkpointing": True}, "student": {"freeze_embeddings": False}},
        {"auxiliary": {"fresh_samples": True, "updates": 2}, "masking": {"method": "bernoulli"}},
        {"auxiliary": {"share_x_tilde": True}, "loss": {"chunk_tokens": 100}},
        {"init": {"mask_ratio": {"kind": "random"}}, "loss": {"reduction": "masked_mean"}},
        {"student": {"steps": [1, 2, 4]}},
    ],
    ids=["plain", "checkpointing", "fresh", "shared-x-tilde", "random-ratio", "few-steps"],
)
def test_one_pass_shared_by_two_ranks_is_that_of_one(tmp_path, groups):
    both = {**SMOOTH, **groups}
    for name in ("student", "auxiliary"):
        both[name] = {**SMOOTH[name], **groups.get(name, {})}
    both["train"] = {**STEPS, "batch_size": 8, **groups.get("train", {})}
    train_with(1, tmp_path / "one", **both)
    train_with(2, tmp_path / "two", **both)
    train_with(2, tmp_path / "sharded", environment=SHARDED, **both)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < BAR
    assert largest_difference(tmp_path / "one", tmp_path / "sharded") < BAR


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks_sharded_or_not(tmp_path):
    small = {**SMOOTH, "train": {**STEPS, "batch_size": 12}}
    train_with(1, tmp_path / "straight", **small)
    train_with(
        2, tmp_path / "cut", environment=SHARDED, train={**small["train"], "steps": 5}, **SMOOTH
    )
    written = {path.name for path in newest(tmp_path / "cut").iterdir()}
    assert {
        "student-00000-of-00002.safetensors",
        "student_optimizer-00001-of-00002.safetensors",
    } <= written
    for ranks, environment, steps in ((3, SHARDED, 10), (1, {}, 12), (2, SHARDED, 16), (2, {}, 20)):
        train_with(
            ranks,
            tmp_path / "cut",
            resume=True,
            environment=environment,
            train={**small["train"], "steps": steps},
            **SMOOTH,
        )
    assert largest_difference(tmp_path / "straight", tmp_path / "cut") < BAR
    assert generator_state(tmp_path / "straight").equal(generator_state(tmp_path / "cut"))


@pytest.mark.slow
def test_a_resumed_run_of_two_ranks_equals_one_that_went_straight_through(tmp_path):
    groups = {"train": {**STEPS, "batch_size": 8, "dropout": True}}
    for environment in ({}, SHARDED):
        folder = tmp_path / str(len(environment))
        train_with(2, folder / "straight", environment=environment, **groups)
        half = {"train": {**groups["train"], "steps": 10}}
        train_with(2, folder / "cut", environment=environment, **half)
        train_with(2, folder / "cut", resume=True, environment=environment, **groups)
        assert largest_difference(folder / "straight", folder / "cut") == 0


@pytest.mark.slow
def test_a_damaged_piece_makes_all_ranks_fall_back_to_the_checkpoint_before(tmp_path):
    groups = {**SMOOTH, "train": {**STEPS, "batch_size": 8, "keep_checkpoints": 5}}
    train_with(2, tmp_path / "r", environment=SHARDED, **groups)
    straight = {name: weights(tmp_path / "r", name) for name in ("student", "auxiliary")}
    piece = newest(tmp_path / "r") / "auxiliary-00001-of-00002.safetensors"
    piece.write_bytes(piece.read_bytes()[:-40])
    train_with(2, tmp_path / "r", resume=True, environment=SHARDED, **groups)
    assert (tmp_path / "r" / "checkpoints" / "step-20.damaged").is_dir()
    assert CheckpointFolder(tmp_path / "r" / "checkpoints").steps()[-1] == 20
    for name, before in straight.items():
        after = weights(tmp_path / "r", name)
        assert all(tensor.equal(before[key]) for key, tensor in after.items())


FAMILIES = {**CLASS_FAMILIES, **TEXT_FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_blocks_of_every_family_can_be_spread(fake_hub, golden, name):
    source = TeacherSource(name=name, architecture=FAMILIES[name](fake_hub, golden))
    teacher = load_teacher(source)
    assert list(blocks_of(teacher.backbone))
    assert Crew(2, lambda rank: compare_gradients(teacher, rank)).codes() == [0, 0]


def compare_gradients(teacher, rank):
    """The gradient of four samples in one process, and of two in each of two ranks."""
    with joined_ranks():
        for checkpointing in (False, True):
            plain, spread = (copy.deepcopy(teacher.backbone) for _ in range(2))
            for backbone in (plain, spread):
                backbone.requires_grad_(True).gradient_checkpointing = checkpointing
            shard_blocks(spread, FullyShardedDataParallelPlugin(fsdp_version=2))
            space, cond = teacher.space, teacher.conditioner.blank(4)
            shape = (4, space.length, space.groups)
            seeded = torch.Generator().manual_seed(0)
            tokens = torch.randint(space.codes, shape, generator=seeded)
            mine = slice(2 * rank, 2 * rank + 2)
            plain.hidden(plain.embed(tokens), cond).square().mean().backward()
            spread.hidden(spread.embed(tokens[mine]), cond[mine]).square().mean().backward()
            average_over_ranks([p for p in spread.parameters() if not is_sharded(p)])
            # Where a gradient is nothing but rounding (key biases), it is held to the others.
            grads = [p.grad.abs().max().item() for p in plain.parameters() if p.grad is not None]
            pairs = zip(plain.named_parameters(), spread.parameters(), strict=True)
            assert any(is_sharded(parameter) for parameter in spread.parameters())
            for (key, whole), part in pairs:
                if part.grad is not None:
                    expected = whole.grad[own_rows(part)] if whole.ndim else whole.grad
                    scale = max(whole.grad.abs().max().item(), 0.01 * max(grads))
                    torch.testing.assert_close(
                        local(part.grad), expected, rtol=1e-4, atol=1e-5 * scale, msg=key
                    )


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_ranks_share_one_copy_of_a_frozen_base(kind):
    assert Crew(2, lambda rank: compare_shared_base(kind)).codes() == [0, 0]


def compare_shared_base(kind):
    """Adapters over a base of which each rank has half, against those over all of it."""
    with joined_ranks():
        whole, shared = load_teacher("digits").backbone, load_teacher("digits").backbone
        for base in (whole, shared):
            store(base, kind)
        before = shared.blocks[0].qkv.weight.nbytes
        spread(shared)
        assert 2 * shared.blocks[0].qkv.weight.nbytes == before
        tokens, cond = torch.arange(128).view(2, 64, 1) % 17, Cond({"label": torch.tensor([1, 2])})
        found = []
        for base in (whole, shared):
            student, auxiliary = (
                disturb(new_adapters(base, LoraSpec(rank=2), seed)) for seed in (0, 1)
            )
            student.gradient_checkpointing = True
            assert student.blocks[0].qkv.weight is auxiliary.blocks[0].qkv.weight
            logits = student(tokens, cond)
            with torch.no_grad():
                target = auxiliary(tokens, cond)
            (logits - target).square().mean().backward()
            found.append([p.grad for p in trained_part(student).parameters()])
        torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)
        assert fingerprint(shared) == fingerprint(whole)
        if is_first():  # alone, without the other
            make_whole(shared)
            with torch.no_grad():
                torch.testing.assert_close(shared(tokens, cond), whole(tokens, cond))
