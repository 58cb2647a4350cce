"""Settings that nothing in a run would read are refused where a person set them."""

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.specs.arena import METHODS
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import to_yaml
from dimo_cli.specs.resolve import preset_names, refine_preset_names, resolve_spec
from dimo_cli.specs.unread import refuse_unread


def check(*sets, model=DistillSpec, **source):
    plan = resolve_spec(model, sets=sets, environment={}, **source)
    refuse_unread(plan.spec, plan.origins)


@pytest.mark.parametrize(
    ("objectives", "setting"),
    [
        ("sdtt", "loss.weight=2"),
        ("sdtt", "loss.weight.value=2"),
        ("redi", "loss.reduction=mean"),
        ("di4c", "loss.auxiliary_temperature=2"),
        ("fpd", "loss.entropy_bonus=0.1"),
        ("catdrift", "loss.divergence=rkl"),
        ("idlm", "loss.divergence=rkl"),
    ],
)
def test_what_no_objective_reads_is_refused(objectives, setting):
    field = ".".join(setting.partition("=")[0].split(".")[:2])
    with pytest.raises(SpecError, match=f"`{field}` .*--set .* nothing in a run of {objectives}"):
        check(f"objectives=[{objectives}]", setting, preset="digits")
    check(f"objectives=[{objectives},dimo]", setting, preset="digits")
    check(f"objectives=[{objectives}]", preset="digits")  # whose divergence is for dimo


def test_without_the_di_m_o_loss_its_settings_are_refused():
    of_student = {"model": RefineSpec, "preset": "digits-gan"}
    check("loss.weight=2", **of_student)
    check("distill_weight=0", "gan.weight=1", **of_student)
    with pytest.raises(SpecError, match=r"nothing in one without Di\[M\]O's loss reads it"):
        check("distill_weight=0", "gan.weight=1", "loss.weight=2", **of_student)


def test_a_file_may_have_what_its_own_objectives_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: digits\nloss: {divergence: rkl}\n")
    check("objectives=[idlm]", file=file)
    file.write_text("preset: digits\nloss: {divergence: rkl}\nobjectives: [idlm]\n")
    with pytest.raises(SpecError, match=r"mine.yaml, line 2"):
        check(file=file)
    whole = tmp_path / "run.yaml"  # as a run keeps it, with what its preset said for others
    plan = resolve_spec(DistillSpec, preset="digits", sets=["objectives=[idlm]"], environment={})
    whole.write_text(to_yaml(plan.spec))
    check(file=whole)


def test_every_preset_and_every_method_says_only_what_is_read():
    for name in preset_names():
        check(preset=name)
    for name in refine_preset_names():
        check(model=RefineSpec, preset=name)
    for method in METHODS.values():
        steps = "student.steps=1" if method.in_one_step else "student.steps=[1, 2]"
        own = [f"{path}={value}" for path, value in method.overrides.items()]
        check(*own, steps, preset="digits")


def test_a_run_does_not_begin_with_them(dimo):
    told = dimo("distill", "--preset", "digits-sdtt", "--set", "loss.weight=2", "--dry-run")
    assert told.exit_code == 2
    assert "`loss.weight` (from flag --set loss.weight) is set, and nothing" in told.stderr
