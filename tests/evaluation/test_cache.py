"""A number that is kept is of one configuration: what decides it is in its key."""

import pytest
import torch

from dimo_cli.data.arrays import Images
from dimo_cli.evaluation.cache import cache_file, row_file
from dimo_cli.evaluation.subjects import Opened, Subject, subject_of
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.per_image import PromptMetric
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.target import Target
from dimo_cli.teachers.registry import load_teacher
from tests.helpers.measuring import yardstick_for

DRAWN = EvalSpec(target="t", metrics=("fid",), sampler=SamplerSpec(teacher=True, steps=2))


class Some(Images):
    """Images of which only their number is asked."""

    def __len__(self):
        return 2

    def batches(self, size, start=0, stop=None):
        raise NotImplementedError


def key_of(teacher, store=None):
    store = store or HubStore()
    opened = Opened(teacher.name, teacher.takes_prompts, Target(teacher))
    return cache_file(DRAWN, subject_of(opened, DRAWN, None, store), ["fid"], store)


def test_weights_that_are_stored_otherwise_draw_other_images(teacher):
    stored = load_teacher(TeacherSource(name="digits", weights="int8"))
    assert key_of(teacher) == key_of(load_teacher("digits")) != key_of(stored)


def test_what_guidance_leads_away_from_decides_the_images():
    teacher = load_teacher("shapes")
    before = key_of(teacher)
    teacher.conditioner.negative_prompt = "a red circle"
    assert key_of(teacher) != before


def test_a_file_that_is_replaced_in_a_local_folder_is_another_one(tmp_path):
    images = Subject(Some(), 1, {}, "images on disk", True, torch.device("cpu"))
    kept, models = tmp_path / "kept", tmp_path / "models"
    models.mkdir()
    (models / "linked").symlink_to(kept)
    kept.mkdir()
    (kept / "clip.safetensors").write_bytes(b"one")

    def key():
        return cache_file(DRAWN, images, ["clip"], HubStore(models))

    before = key()
    assert key() == before
    (kept / "clip.safetensors").write_bytes(b"two")
    assert key() != before


@pytest.fixture
def row():
    """The key of a teacher's row, of a metric that reads prompts."""
    yardstick = yardstick_for(load_teacher("shapes"), metric="image_reward")
    return yardstick, lambda: row_file(yardstick.facts(100, {}))


def test_a_row_knows_the_null_condition_of_its_teacher(row):
    yardstick, key = row
    before, conditioner = key(), yardstick.teacher.conditioner
    conditioner.negative_prompt, conditioner._null = "a red circle", None
    assert key() != before


def test_a_row_knows_the_network_that_reads_its_prompts(row):
    yardstick, key = row
    before = key()
    (judge,) = (metric for metric in yardstick.metrics() if isinstance(metric, PromptMetric))
    judge.sha256 = "another"
    assert key() != before
