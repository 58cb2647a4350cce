"""The notebook runs from its first cell to its last, and is kept without outputs."""

from pathlib import Path

import pytest
from PIL import Image

from dimo_cli import Run
from tests.helpers.notebooks import read_notebook, run_notebook

SMALLER = {
    "steps=200": "steps=20",
    "steps=300": "steps=22",
    "samples=1000": "samples=100",
    r"\"preview_every\": 100": r"\"preview_every\": 10",
}
NOTEBOOK = Path(__file__).parents[2] / "examples" / "python-api.ipynb"


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Smaller batches and fewer steps than a person waits for; the code itself is as it stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("DIMO_TRAIN__BATCH_SIZE", "8")
    text = NOTEBOOK.read_text(encoding="utf-8")
    for full, small in SMALLER.items():
        assert full in text
        text = text.replace(full, small)
    copy = tmp_path / NOTEBOOK.name
    copy.write_text(text, encoding="utf-8")
    return copy


def test_the_notebook_works_and_shows_what_it_says(quick, capsys):
    names, shown = run_notebook(quick)
    run = names["run"]
    assert isinstance(run, Run)
    assert (run.state, run.step) == ("finished", 22)
    pictures = [item for item in shown if isinstance(item, Image.Image)]
    assert len(pictures) >= 8
    assert shown[-1] == run.folder / "report.html"
    assert len(names["watch"].entropy) == 5
    printed = capsys.readouterr().out
    assert "the student that ships: " in printed
    assert "finished 22 FID" in printed


def test_the_notebook_is_kept_small_and_without_outputs():
    found = read_notebook(NOTEBOOK)
    assert found["nbformat"] == 4
    assert all(not cell["outputs"] for cell in found["cells"] if cell["cell_type"] == "code")
    assert all(cell.get("execution_count") is None for cell in found["cells"])
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"])
    assert NOTEBOOK.stat().st_size < 20_000
