"""The students that ship: card and preview are of the weights that lie beside them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli import sample
from dimo_cli.cards.card import student_card
from dimo_cli.publishing.preview import draw_preview
from dimo_cli.sampling.tteo import settled
from dimo_cli.specs.manifest import CARD, PREVIEW
from dimo_cli.specs.tteo import EMOJI_WEIGHTS, RENO_WEIGHTS, SHAPES_WEIGHTS, TteoSpec
from dimo_cli.students.folder import BUILTIN, describe_student, load_student
from dimo_cli.teachers.protocol import TteoDefaults
from dimo_cli.teachers.shapes import world

SHIP = Path(__file__).parents[2] / "examples" / "ship_student.py"
AGAIN = "run `python examples/ship_student.py FOLDER --out FOLDER --store as-is`"


@pytest.fixture(scope="module", params=BUILTIN)
def shipped(request):
    return request.param, load_student(BUILTIN[request.param])


def test_the_card_is_of_the_student(shipped):
    name, student = shipped
    card = (BUILTIN[name] / CARD).read_text(encoding="utf-8")
    assert card == student_card(describe_student(student)), AGAIN


def test_the_card_shows_a_prompt_of_the_students_own_world(shipped):
    name, student = shipped
    card = (BUILTIN[name] / CARD).read_text(encoding="utf-8")
    assert "red fox" not in card
    if student.teacher.takes_prompts:
        assert f'--prompt "{student.teacher.conditioner.dataset[0]}"' in card


def test_the_preview_is_of_the_student(shipped, tmp_path):
    name, student = shipped
    draw_preview(student, tmp_path / PREVIEW)
    with Image.open(BUILTIN[name] / PREVIEW) as kept, Image.open(tmp_path / PREVIEW) as drawn:
        assert kept.info["dimo.student"] == student.short_id, AGAIN
        assert json.loads(kept.info["dimo.conditions"])
        assert kept.size == drawn.size
        apart = np.abs(np.asarray(kept, dtype=float) - np.asarray(drawn, dtype=float))
    assert (apart < 8).mean() > 0.9, AGAIN  # another processor may draw a token differently


def test_shipping_makes_all_files_of_a_student_in_one_go(tmp_path):
    source, target = tmp_path / "run", tmp_path / "shipped"
    shutil.copytree(BUILTIN["digits"], source)
    for name in (CARD, PREVIEW):
        (source / name).unlink()
    words = [sys.executable, str(SHIP), str(source), "--out", str(target)]
    subprocess.run(words, check=True, capture_output=True)
    student = load_student(target)
    assert student.manifest.weights_sha256 != load_student(source).manifest.weights_sha256
    assert (target / "model.safetensors").stat().st_size < 500_000  # half of what it was
    assert (target / CARD).read_text(encoding="utf-8") == student_card(describe_student(student))
    with Image.open(target / PREVIEW) as preview:
        assert preview.info["dimo.student"] == student.short_id


def test_a_student_that_ships_in_bytes_is_within_half_a_step_of_each_row(tmp_path):
    target = tmp_path / "shipped"
    words = [sys.executable, str(SHIP), "digits", "--out", str(target), "--store", "bytes"]
    subprocess.run(words, check=True, capture_output=True)
    assert (target / "model.safetensors").stat().st_size < 250_000
    before = load_student(BUILTIN["digits"]).backbone.state_dict()
    for name, tensor in load_student(target).backbone.state_dict().items():
        assert tensor.dtype == torch.float32
        rows = before[name].flatten(1) if tensor.ndim > 1 else before[name][None]
        step = rows.abs().amax(1, keepdim=True) / 127
        assert ((tensor.view_as(rows) - rows).abs() <= step / 2 + 1e-6).all(), name


def test_tteo_begins_with_what_suits_the_teacher(shipped):
    name, student = shipped
    defaults = student.teacher.tteo
    if own := {"shapes": SHAPES_WEIGHTS, "emoji": EMOJI_WEIGHTS}.get(name):
        assert settled(student, TteoSpec()).rewards == own
        assert settled(student, TteoSpec()).learning_rate == defaults.learning_rate == 0.1
        assert settled(student, TteoSpec(learning_rate=0.2)).learning_rate == 0.2
        assert settled(student, TteoSpec(rewards={"clip": 2.0})).rewards == {"clip": 2.0}
    else:
        assert defaults == TteoDefaults(RENO_WEIGHTS, 0.2)


@pytest.mark.parametrize("background", list(world.BACKGROUNDS))
def test_the_student_of_shapes_paints_the_background_that_is_asked_for(background):
    """One of before painted white, whatever was asked."""
    prompts = [
        f"a {color} {shape} on {background}" for color in world.COLORS for shape in world.SHAPES
    ]
    pictures = sample("shapes", prompts=prompts, seed=5)
    corners = np.stack([np.asarray(picture)[0, 0] for picture in pictures]).astype(int)
    wanted = np.asarray(world.BACKGROUNDS[background])
    assert (abs(corners - wanted).max(1) < 30).mean() >= 0.9
