"""Every family from its published files to a one-step student, through the CLI, on a fake Hub."""

import json

import pytest
from PIL import Image

from tests import published

SHORT_RUN = (
    "train.steps=2",
    "train.batch_size=2",
    "train.accumulate=1",
    "monitor.preview_every=2",
    "monitor.preview_images=2",
)
CLASS_FAMILIES = {
    "maskgit": published.publish_maskgit,
    "maskbit": published.publish_maskbit,
    "titok-l32": published.publish_titok,
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


def settings(architecture, *more):
    """Flags that shorten a run and describe a golden-size model."""
    values = (*SHORT_RUN, f"teacher.architecture={json.dumps(architecture)}", *more)
    return [part for value in values for part in ("--set", value)]


def succeed(result):
    """The JSON document of a command that must not fail."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", CLASS_FAMILIES)
def test_a_class_teacher_is_distilled_and_sampled_from_its_published_files(
    dimo, fake_hub, golden, name
):
    architecture = CLASS_FAMILIES[name](fake_hub, golden)
    flags = settings(architecture)
    run = succeed(dimo("distill", "--preset", name, *flags, "--json"))
    teacher = succeed(
        dimo("sample", "--preset", name, "--teacher", "--steps", 3, "--class", 1, "-n", 2,
             "--set", f"teacher.architecture={json.dumps(architecture)}", "--json")
    )  # fmt: skip
    assert teacher["sampler"]["sampler"] == "published"
    downloads = fake_hub.downloads()
    assert len(downloads) == len(set(downloads)), "a file was downloaded twice"
    document = succeed(dimo("sample", "--student", run["run"], "--class", 1, "-n", 3, "--json"))
    assert document["sampler"]["steps"] == 1
    assert Image.open("samples.png").width > 64
    assert fake_hub.downloads() == downloads
