"""A captured step: what the host decides lies in fixed tensors, and the rest is recorded once."""

import contextlib

import pytest
import torch

from dimo_cli.engine import capture
from dimo_cli.engine.capture import WARM_UP, CapturedStep, obstacle
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.refine import Refinement
from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
from tests.engine.test_pretended_card import on_pretended_card
from tests.gpu.test_training import AnyTokens, brightness
from tests.helpers.crossing import each_of_both
from tests.helpers.recording import HostGraph, record_on_host
from tests.helpers.syncs import CardGenerator, pretended_card
from tests.helpers.tiny import FAMILIES, tiny_teacher

# With a large `eps`: what has no gradient but for rounding (the bias of attention keys) stays.
SMOOTH = {"learning_rate": 1e-3, "warmup_steps": 5, "eps": 1e-3}
SETTINGS = {
    "guidance": {"teacher": {"guidance": {"kind": "linear", "scale": 2.0}}},
    "updates": {"auxiliary": {"updates": 2}, "init": {"mask_ratio": {"kind": "random"}}},
    "fresh": {"auxiliary": {"fresh_samples": True, "updates": 2}},
    "shared": {"auxiliary": {"share_x_tilde": True}, "loss": {"reduction": "masked_mean"}},
    "bernoulli": {"masking": {"method": "bernoulli"}, "init": {"embed_noise": 0.1}},
    "soft": {"masking": {"content": "soft"}, "loss": {"weight": {"kind": "adaptive"}}},
    "dropout": {"train": {"dropout": True}},
}
CALIBRATED = {"weight": {"kind": "calibrated"}, "divergence": {"kind": "rkl"}}
GAN = {"enabled": True, "weight": "auto", "start": 1, "width": 8, "heads": 2}
GAN_SETTINGS = {
    "auto": {"gan": {**GAN, "dropout": 0.1, "feature_noise": 0.1}},
    "fresh": {"gan": GAN, "auxiliary": {"fresh_samples": True}, "relax": {"kind": "gumbel_st"}},
    "alone": {"gan": {**GAN, "weight": 10.0}, "distill_weight": 0},
    "weighed": {"gan": {**GAN, "bregman": "jensen_shannon"}, "loss": {"divergence": "rkl"}},
    "reinforce": {"gan": {**GAN, "mask_high": 0.5}, "relax": {"kind": "reinforce"}},
}
MEASURED = {
    "as it comes": {},
    "calibrated": {"loss": CALIBRATED, "masking": {"student": "arccos", "auxiliary": "arccos"}},
}


SENDING = {**SETTINGS, **MEASURED, **{f"gan {name}": g for name, g in GAN_SETTINGS.items()}}


def smooth_spec(**groups):
    """A run of two samples a step, in which rounding is not magnified."""
    for name in ("student", "auxiliary"):
        groups[name] = {"optimizer": SMOOTH, **groups.get(name, {})}
    groups["train"] = {"batch_size": 2, **groups.get("train", {})}
    return small_spec(**groups)


def distillation(teacher, /, **groups):
    """One that draws on the host apart and is asked for no numbers, as on a card."""
    return asked_nothing(built(teacher, torch.Generator().manual_seed(0), groups))


def built(teacher, generator, groups):
    if "gan" in groups:
        return refinement(teacher, generator, **groups)
    return Distillation(teacher, smooth_spec(**groups), generator, contextlib.nullcontext)


def refinement(teacher, generator, rewards=None, **groups):
    """A refinement with a GAN of a student that is the teacher still."""
    groups["gan"] = {"optimizer": SMOOTH, **groups["gan"]}
    torch.manual_seed(0)  # of the discriminator's weights
    return Refinement(
        teacher,
        RefineSpec.model_validate({**smooth_spec().model_dump(), **groups}),
        generator,
        contextlib.nullcontext,
        start=teacher.backbone,
        data=AnyTokens(teacher),
        rewards=rewards,
    )


def asked_nothing(run):
    run.host = torch.Generator().manual_seed(1)
    run.generator = run.share.streams(run.run_generator, run.host)[0]
    run.verdict.asks = False
    return run


def both_ways(name, **groups):
    """The same run of a family twice: as it is written, and to be captured."""
    plain, captured = (distillation(tiny_teacher(name), **groups) for _ in range(2))
    return plain, CapturedStep(captured, pytest.fail)


def assert_same(plain, captured, atol=1e-6):
    """Networks and generators of both are where those of the other are."""
    for name, network in plain.networks().items():
        found = captured.networks()[name].state_dict()
        for key, tensor in network.state_dict().items():
            # Sums over other rows in another order: Adam's first steps magnify the difference.
            torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=atol, msg=key)
    for source in ("host", "run_generator"):
        states = (getattr(run, source).get_state() for run in (plain, captured))
        assert torch.equal(*states)


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, SETTINGS))
def test_a_replayed_step_of_every_family_is_the_plain_step(name, setting, monkeypatch):
    """Nothing of a step that was recorded is left in those that come after it."""
    graphs = record_on_host(monkeypatch)
    plain, captured = both_ways(name, **SETTINGS[setting])
    for run in (plain, captured):
        torch.manual_seed(0)  # of dropout
        for step in range(WARM_UP + 3):
            run.step(step)
    (graph,) = graphs
    assert graph.replays == 3
    assert_same(plain, captured.distillation)


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, MEASURED))
def test_so_is_one_that_is_measured_and_its_numbers_are_the_same(name, setting, monkeypatch):
    """Of each kind there is a recording, and they take turns."""
    graphs = record_on_host(monkeypatch)
    plain, captured = both_ways(name, **MEASURED[setting])
    for step in range(2 * WARM_UP + 4):
        measure = step % 2 == 1
        expected, found = plain.step(step, measure).values, captured.step(step, measure).values
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert bool(found) == measure
    assert [graph.replays for graph in graphs] == [2, 2]
    assert_same(plain, captured.distillation)


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, GAN_SETTINGS))
def test_so_is_one_of_a_refinement_with_a_gan(name, setting, monkeypatch):
    """From the step on from which the discriminator is listened to; measured or not."""
    graphs = record_on_host(monkeypatch)
    plain, captured = both_ways(name, **GAN_SETTINGS[setting])
    seen = []
    for run in (plain, captured):
        torch.manual_seed(0)  # of dropout
        seen.append([run.step(step, step % 2 == 0).values for step in range(1 + 2 * WARM_UP + 3)])
    for expected, found in zip(*seen, strict=True):
        assert found == pytest.approx(expected, rel=5e-3, abs=1e-5)
    assert [graph.replays for graph in graphs] == [2, 1]
    # Two networks more, each after the other, through which rounding goes.
    assert_same(plain, captured.distillation, atol=1e-5)


def test_what_the_host_decides_stays_in_its_place(teacher):
    run = CapturedStep(distillation(teacher), pytest.fail)
    places = [[tensor.data_ptr() for tensor in run.prepare().tensors()] for _ in range(2)]
    assert places[0] == places[1]
    assert len(places[0]) == 4  # a class, and the masks and ratios of three


def test_a_step_whose_texts_are_longer_than_the_recorded_ones_is_a_plain_one(monkeypatch):
    graphs = record_on_host(monkeypatch)
    run = CapturedStep(distillation(tiny_teacher("showo")), pytest.fail)
    draw = run.distillation.draw_conditions

    def longer(count):
        ids = draw(count).tensors["ids"]
        return Cond({"ids": torch.cat([ids, ids], dim=1)})

    for step in range(WARM_UP + 3):
        run.distillation.draw_conditions = longer if step == WARM_UP + 1 else draw
        run.step(step)
    (graph,) = graphs
    assert graph.replays == 2


@pytest.mark.parametrize(("name", "setting"), each_of_both(FAMILIES, SENDING))
def test_a_recorded_step_sends_the_card_nothing(name, setting):
    """What Python wrote down while recording would be sent again and again."""
    teacher = tiny_teacher(name)
    with pretended_card() as card:
        run = built(on_pretended_card(teacher), CardGenerator("cpu"), SENDING[setting])
        captured = CapturedStep(run, pytest.fail)
        for step in range(3):
            captured.set_rates(step)
            prepared = captured.prepare()
            card.sent.clear()
            captured.run(prepared, step, measure=True)
    assert card.sent == card.syncs == []


def test_a_recording_that_fails_is_told_and_the_run_goes_on(teacher, monkeypatch):
    def refuse():
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    notes = []
    plain, run = distillation(teacher), CapturedStep(distillation(teacher), notes.append)
    for step in range(6):
        plain.step(step)
        run.step(step)
    (note,) = notes
    assert "could not be captured" in note
    assert "operation not permitted when stream is capturing" in note
    assert_same(plain, run.distillation)


def test_a_step_that_asks_for_numbers_is_not_recorded(teacher, monkeypatch):
    """So the recorder refuses what a card would refuse."""
    record_on_host(monkeypatch)
    notes = []
    run = CapturedStep(distillation(teacher), notes.append)
    run.distillation.verdict.asks = True
    for step in range(WARM_UP + 2):
        run.step(step)
    (note,) = notes
    assert "not permitted" in note


class Clock:
    """Time as a test lets it pass: for Python in a plain step, and for the card after it."""

    def __init__(self, monkeypatch, plain, late, replay):
        self.now, self.card = 0.0, 0.0
        self.plain, self.late, self.replay = plain, late, replay
        carry_out = HostGraph.replay

        def replayed(graph):
            self.now += self.replay
            carry_out(graph)

        monkeypatch.setattr(HostGraph, "replay", replayed)
        monkeypatch.setattr(capture.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(capture, "wait_for", self.wait)

    def wait(self, device):
        self.now = max(self.now, self.card)

    def times(self, run):
        """Let the plain steps of a distillation take their time."""
        carry_out = run.carry_out

        def step(*args):
            self.now += self.plain
            self.card = self.now + self.late
            return carry_out(*args)

        run.carry_out = step
        return run


@pytest.mark.parametrize(
    ("late", "replay", "recordings", "is_kept"),
    [(0.5, 0.1, 0, False), (0.0, 0.1, 1, True), (0.0, 0.99, 1, False)],
    ids=["busy card", "faster replays", "replays as slow"],
)
def test_a_large_network_is_recorded_where_its_card_waits(
    late, replay, recordings, is_kept, teacher, monkeypatch
):
    graphs = record_on_host(monkeypatch)
    clock, plain = Clock(monkeypatch, 1.0, late, replay), distillation(teacher)
    notes = []
    run = CapturedStep(clock.times(distillation(teacher)), notes.append, on_trial=True)
    for step in range(WARM_UP + 6):
        plain.step(step)
        run.step(step)
    assert (len(graphs), bool(run.recordings)) == (recordings, is_kept)
    told = "The card waited for Python: steps are recorded and replayed from now on, in 0.10 of"
    assert notes == ([f"{told} the time."] if is_kept else [])
    assert_same(plain, run.distillation)


def test_after_its_memory_ran_out_a_run_takes_its_rates_from_the_step_again(teacher):
    """It has no recording any more."""
    run = CapturedStep(distillation(teacher), pytest.fail)
    run.step(2)
    run.distillation.begin_anew()
    run.distillation.step(3)
    (group,) = run.distillation.student_optimizer.optimizer.param_groups
    assert group["lr"] == pytest.approx(SMOOTH["learning_rate"] * 3 / SMOOTH["warmup_steps"])


def test_a_checkpoint_does_not_tell_how_its_steps_were_carried_out(teacher):
    run = CapturedStep(distillation(teacher), pytest.fail)
    optimizer = run.distillation.student_optimizer
    run.step(0)
    assert optimizer.has_rate_tensor
    saved = optimizer.state_dict()
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.0  # of a warm-up's first step
    assert not saved["optimizer"]["param_groups"][0]["capturable"]
    optimizer.load_state_dict(saved)
    run.forget()
    run.step(1)


def test_what_cannot_be_captured_is_refused_with_the_reason(tmp_path, teacher):
    assert obstacle(distillation(teacher)) == "it is not on a CUDA device"
    spec = small_spec(train={"capture": True})
    with pytest.raises(SpecError, match="it is not on a CUDA device") as caught:
        Trainer(spec, load_teacher("digits"), tmp_path, Silent())
    assert "train.capture=auto" in caught.value.hint


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"train": {"accumulate": 2}}, "several passes"),
        ({"train": {"gradient_checkpointing": True}}, "computed again"),
        ({"init": {"control": "encoded_noise"}}, "init.control"),
        ({"init": {"embed_noise": {"kind": "warmup"}}}, "embed_noise"),
    ],
)
def test_so_is_a_step_that_changes_its_shapes_or_its_draws(teacher, groups, reason, monkeypatch):
    run = distillation(teacher, **groups)
    run.run_generator = CudaGenerator()
    assert reason in obstacle(run)


def test_a_refinement_without_rewards_can_be_captured(teacher):
    groups = {"gan": GAN_SETTINGS["auto"]["gan"], "reward": {"terms": {"clip": 1.0}}}
    run = refinement(teacher, torch.Generator(), rewards={"clip": (brightness, 1.0)}, **groups)
    run.run_generator = CudaGenerator()
    assert obstacle(run) == "`reward` cannot be recorded"
    run.losses.objectives = [one for one in run.losses.objectives if one.name != "reward"]
    assert obstacle(run) is None


class CudaGenerator(torch.Generator):
    device = torch.device("cuda")
