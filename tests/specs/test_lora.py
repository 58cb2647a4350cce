"""Settings of adapters: what they mean together, and what is refused."""

import pytest

from dimo_cli.errors import SpecError
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import resolve_spec


def spec_with(*sets):
    return resolve_spec(DistillSpec, preset="digits", sets=list(sets), environment={}).spec


def test_nothing_has_adapters_by_default():
    spec = spec_with()
    assert spec.student.lora.rank == 0
    assert spec.auxiliary_lora.rank == 0


def test_the_auxiliary_is_as_the_student():
    spec = spec_with("student.lora.rank=8", "student.lora.alpha=16", "student.lora.targets=[mlp]")
    assert spec.auxiliary_lora == spec.student.lora
    assert spec.auxiliary_lora.scale == 2


def test_the_auxiliary_may_differ_in_each_setting():
    spec = spec_with("student.lora.rank=8", "student.lora.alpha=16", "auxiliary.lora.rank=32")
    assert (spec.auxiliary_lora.rank, spec.auxiliary_lora.scale) == (32, 1)
    assert spec_with("student.lora.rank=8", "auxiliary.lora.rank=0").auxiliary_lora.rank == 0
    spec = spec_with("student.lora.rank=8", "auxiliary.lora.targets=all")
    assert spec.auxiliary_lora.targets == ("all",)
    assert spec_with("auxiliary.lora.rank=4").auxiliary_lora.rank == 4


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["student.lora.rank=-1"], "student.lora.rank"),
        (["student.lora.rank=5000"], "student.lora.rank"),
        (["student.lora.alpha=8"], "alpha needs a rank above 0"),
        (["auxiliary.lora.alpha=8"], "auxiliary.lora.alpha needs auxiliary.lora.rank above 0"),
        (["auxiliary.lora.rank=many"], "student or a whole number from 0 to 4,096"),
        (["student.lora.rank=4", "student.lora.targets=[]"], "student.lora.targets"),
        (["student.lora.rank=4", "student.lora.targets=['a(']"], "nor a regular expression"),
        (["student.lora.rank=4", "student.freeze_embeddings=false"], "trains adapters alone"),
        (["student.lora.rank=4", "student.ema.offload=true"], "ema.offload has nothing to save"),
    ],
)
def test_what_makes_no_sense_is_refused(sets, said):
    with pytest.raises(SpecError) as refused:
        spec_with(*sets)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["int8-dynamic", "w8a8"])
def test_dynamic_int8_is_refused_with_the_reason(name):
    with pytest.raises(SpecError, match=r"no student can learn from that\. Use int8"):
        spec_with(f"teacher.weights={name}")
    assert spec_with().teacher.weights == "fp32"
    with pytest.raises(SpecError, match="must be one of fp32, bf16, int8"):
        spec_with("teacher.weights=int4")
