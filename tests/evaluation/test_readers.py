"""What an evaluation reads images with: what suits a world, and what is refused."""

import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.evaluation.readers import build_readers, precision_recall
from dimo_cli.evaluation.subjects import Subject
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.manifold import FeatureBank
from dimo_cli.specs.evaluate import EvalSpec


def subject_of(domain, count):
    return Subject(range(count), 64, {}, domain, domain != "digits", torch.device("cpu"))


def test_real_shapes_that_repeat_are_among_themselves():
    """Four copies of each: no ball has any room, and `<` leaves them all out."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(60, 2, generator=generator).repeat(4, 1)
    found = {}
    for world in ("shapes", "digits"):
        bank = FeatureBank(len(real), 2)
        bank.add(real, 0)
        metric = precision_recall(
            real, bank, subject_of(world, len(real)), EvalSpec(target=world), lambda line: None
        )
        found[world] = {result.metric: result for result in metric.results()}
    values = {world: [r.value for r in results.values()] for world, results in found.items()}
    assert values["digits"] == [0, 0, 0, 0]
    precision, recall, density, coverage = values["shapes"]
    assert precision == recall == coverage == 1
    assert 1 <= density < 2
    protocol = found["shapes"]["precision_k3"].protocol
    assert (protocol["comparison"], protocol["reference_images"]) == ("<=", 60)


def readers_for(domain, metrics, **settings):
    spec = EvalSpec(target=domain, metrics=metrics, **settings)
    return build_readers(metrics, subject_of(domain, 50), spec, HubStore(), lambda line: None)


OTHERS = [
    ("shapes", ("fid",), {"features": "emoji"}),
    ("digits", ("is", "pr"), {"features": "inception"}),
    ("digits", ("fid", "fdd"), {}),
    ("photos", ("kid",), {"reference": "shapes", "features": "dinov2"}),
]


@pytest.mark.parametrize(("domain", "metrics", "settings"), OTHERS)
def test_a_built_in_reference_is_for_its_own_network_alone(domain, metrics, settings):
    with pytest.raises(SpecError, match="features of its own network") as refused:
        readers_for(domain, metrics, **settings)
    assert "--ref" in refused.value.hint


def test_its_own_network_can_be_named_and_another_one_where_nothing_is_compared():
    readers, _ = readers_for("digits", ("fid",), features="digits")
    assert readers[0][0].name == "digits-cnn-64"
    readers, _ = readers_for("shapes", ("is",), features="digits")
    assert readers[0][0].name == "digits-cnn-64"
