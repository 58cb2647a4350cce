"""Two processes hold, after `reduce`, what one process would."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch._subclasses.fake_tensor import FakeTensorMode

from dimo_cli.metrics.frechet import RunningGaussian, sum_over_ranks
from dimo_cli.metrics.manifold import FeatureBank

IMAGES, DIMENSIONS, BATCH = 110, 24, 16


def features():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(IMAGES, DIMENSIONS, generator=generator) * 3 + 10


def measure(rank, world):
    """What a rank knows at the end; it sees every `world`-th batch."""
    torch.set_num_threads(1)
    running, bank = RunningGaussian(DIMENSIONS), FeatureBank(IMAGES, DIMENSIONS)
    for number, part in enumerate(features().split(BATCH)):
        if number % world == rank:
            running.add(part)
            bank.add(part, number * BATCH)
    running.reduce()
    for _ in range(2):  # as two metrics that share a bank do
        bank.reduce()
    found = running.gaussian()
    return found.mean, found.covariance, found.count, bank.features()


def one_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(measure(rank, 2), f"{folder}/{rank}.pt")
    # A rank that measures the same images as another is a mistake that must not pass unseen.
    bank = FeatureBank(4, 2)
    bank.add(torch.ones(4, 2), 0)
    bank.reduce()
    with pytest.raises(ValueError, match="4 on several ranks"):
        bank.features()
    only_the_first = RunningGaussian(DIMENSIONS)
    if rank == 0:
        only_the_first.add(features())
    only_the_first.reduce()
    assert only_the_first.gaussian().count == IMAGES, "a rank without images has joined"
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_running_sums_of_two_ranks_are_those_of_one(two_ranks):
    mean, covariance, count, _ = measure(0, 1)
    for found_mean, found_covariance, found_count, _ in two_ranks:
        assert found_count == count == IMAGES
        torch.testing.assert_close(found_mean, mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found_covariance, covariance, rtol=1e-10, atol=1e-10)


def test_features_of_two_ranks_are_all_there_in_the_order_of_one(two_ranks):
    for *_, bank in two_ranks:
        assert torch.equal(bank, features())


def test_a_single_rank_alone_holds_only_its_share():
    running = RunningGaussian(DIMENSIONS)
    running.add(features()[:BATCH])
    running.reduce()
    assert running.count == BATCH


@pytest.mark.parametrize(("backends", "place"), [("cpu:gloo,cuda:nccl", "cuda"), ("gloo", "cpu")])
def test_sums_meet_where_the_job_says_wherever_a_rank_has_its_own(monkeypatch, backends, place):
    met = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(dist, "all_reduce", lambda sent: met.append(sent.device.type))
    with FakeTensorMode():
        for mine in ("cpu", "cuda"):  # without images, and with some
            sum_over_ranks(torch.zeros(4, device=mine))
    assert met == [place, place]
