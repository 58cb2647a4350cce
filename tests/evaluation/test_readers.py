"""What an evaluation reads images with: what suits a world, and what is refused."""

import torch

from dimo_cli.evaluation.readers import precision_recall
from dimo_cli.evaluation.subjects import Subject
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
