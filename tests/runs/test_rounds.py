"""A run of rounds that was stopped within one goes on with the same pairs and the same source."""

import hashlib
import shutil

from dimo_cli.console.live import PlainView
from dimo_cli.runs.distill import distill
from tests.conftest import small_spec


def digest(folder):
    return hashlib.sha256((folder / "student" / "model.safetensors").read_bytes()).hexdigest()


def spec_with(objective, **groups):
    spec = small_spec(**groups)
    return type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})


def resumed_after_three_steps(spec, tmp_path, monkeypatch):
    """A whole run, and one of which only the checkpoint of step 3 was left."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    notes = []
    whole = distill(spec, tmp_path / "whole", PlainView(notes.append)).folder
    cut = shutil.copytree(whole, tmp_path / "cut")
    for gone in ("student", "checkpoints/step-6"):
        shutil.rmtree(cut / gone)
    distill(spec, cut, PlainView(notes.append), resume=True)
    return digest(whole), digest(cut), notes


def test_redi(tmp_path, monkeypatch):
    objective = {"kind": "redi", "rounds": 3, "pairs": 8, "sampler_steps": 2}
    whole, cut, notes = resumed_after_three_steps(spec_with(objective), tmp_path, monkeypatch)
    assert whole == cut
    assert sum("Pairs are drawn" in note for note in notes) == 3


def test_sdtt_of_real_images(tmp_path, monkeypatch):
    objective = {"kind": "sdtt", "rounds": 2, "from_steps": 4}
    spec = spec_with(objective, init={"mask_ratio": 1})
    whole, cut, _ = resumed_after_three_steps(spec, tmp_path, monkeypatch)
    assert whole == cut
