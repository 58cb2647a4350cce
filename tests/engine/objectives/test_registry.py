"""Objectives by name: in a spec, in the engine, and from other packages."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import MaskedObjective, Needs
from dimo_cli.engine.objectives import registry
from dimo_cli.engine.objectives.registry import named_objectives, register_objective
from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec
from tests.conftest import small_spec


def spec_with(*objectives, **groups):
    spec = small_spec(**groups)
    return type(spec).model_validate({**spec.model_dump(), "objectives": objectives})


def weights_after(teacher, spec, steps=2, objectives=None):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    run = Distillation(teacher, spec, generator, contextlib.nullcontext, objectives=objectives)
    for step in range(steps):
        report = run.step(step, measure=True)
    assert report.skipped is None
    return run.student.state_dict(), report.values


def assert_equal(first, second):
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(registry, "OBJECTIVES", dict(registry.OBJECTIVES))


def test_a_spec_that_names_none_is_di_m_o_bit_for_bit(teacher):
    short, _ = weights_after(teacher, small_spec())
    long, _ = weights_after(teacher, spec_with({"kind": "dimo"}))
    assert_equal(short, long)


def test_two_halves_of_an_objective_are_the_whole(teacher):
    whole, _ = weights_after(teacher, small_spec())
    halves = named_objectives(small_spec(), 0.5) + named_objectives(small_spec(), 0.5)
    halves, _ = weights_after(teacher, small_spec(), objectives=halves)
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["idlm", "dmmd"])
@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"teacher": {"guidance": 2.0}},
        {"masking": {"content": "soft"}},
        {"auxiliary": {"share_x_tilde": True}, "train": {"batch_size": 4, "accumulate": 2}},
    ],
    ids=["plain", "guidance", "soft", "shared"],
)
def test_every_objective_trains_the_student_under_every_option(teacher, kind, groups):
    before = {name: t.clone() for name, t in teacher.backbone.state_dict().items()}
    after, values = weights_after(teacher, spec_with(kind, **groups), steps=3)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert {"divergence", "auxiliary_loss"} <= set(values)


def test_objectives_add_up(teacher):
    found = named_objectives(spec_with("dimo", {"kind": "dmmd", "weight": 2, "anchor": 0.5}), 3.0)
    assert [(one.name, one.weight) for one in found] == [("dimo", 3.0), ("dmmd", 6.0)]
    assert found[1].needs == Needs(auxiliary=True, student=True, anchor=0.5)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "idml"}, "'idml', which is not a known objective"),
        ({"kind": "gan"}, "`gan` group"),
        ({"kind": "idlm", "anchor": 1}, "Objective idlm has no setting `anchor`"),
    ],
)
def test_what_an_objective_is_not_is_said(objective, message):
    with pytest.raises(SpecError) as caught:
        named_objectives(spec_with(objective))
    assert message in f"{caught.value} {caught.value.hint}"


def test_objectives_are_written_as_names_or_groups_on_a_command_line():
    spec = resolve_spec(RefineSpec, preset="digits-gan", environment={},
                        sets=["objectives=[dimo, {kind: dmmd, anchor: 0.5}]"]).spec  # fmt: skip
    assert [(o.kind, o.settings) for o in spec.objectives] == [
        ("dimo", {}),
        ("dmmd", {"anchor": 0.5}),
    ]
    assert spec.method.startswith("Soft-Di[M]O (Di[M]O + D-MMD, GAN")


class Towards(MaskedObjective):
    """To the teacher's predictions, as if they were targets; no auxiliary."""

    name = "towards"
    needs = Needs(student=True)

    def __init__(self, weight, sharpness):
        self.weight, self.sharpness = weight, sharpness

    def ask(self, rows, measure):
        teacher = (self.sharpness * rows.teacher().conditional).softmax(-1)
        return (rows.student().softmax(-1) - teacher) * rows.scale * self.weight, None


def test_one_of_ones_own_needs_no_auxiliary(teacher, known):
    register_objective("towards", lambda spec, weight, sharpness=1.0: Towards(weight, sharpness))
    spec = spec_with({"kind": "towards", "sharpness": 2.0})
    run = Distillation(teacher, spec, torch.Generator().manual_seed(0), contextlib.nullcontext)
    run.step(0)
    values = run.step(1, measure=True).values
    assert set(run.networks()) == {"student"}
    assert "auxiliary_loss" not in values
    with pytest.raises(SpecError, match="already"):
        register_objective("towards", None)


def test_one_that_asks_for_what_it_does_not_need_is_told(teacher, known):
    class Curious(Towards):
        needs = Needs()

    register_objective("curious", lambda spec, weight: Curious(weight, 1.0))
    run = Distillation(teacher, spec_with("curious"), torch.Generator(), contextlib.nullcontext)
    with pytest.raises(TypeError, match="asks for the student, which its `needs` do not name"):
        run.step(0)
