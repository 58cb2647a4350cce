"""Galleries of `dimo sample` and `dimo compare`: pictures with what made them, and a lightbox."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from dimo_cli.reporting.gallery import Gallery, Group, render, shot
from tests.helpers.reports import ATTACK, Page

pytest_plugins = ("tests.helpers.browser",)


def shots(count, side=8, condition="seven"):
    noise = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    return [shot(one, condition, f"seed 3, image {index}") for index, one in enumerate(noise)]


def gallery(*groups, again="`dimo sample -n 4`"):
    return Gallery("digits", "Some images.", groups or [Group("", shots(4))], again)


def test_every_picture_stands_over_its_prompt_and_seed(dimo, tmp_path):
    call = ("sample", "--student", "digits", "--class", "seven", "-n", 3, "--seed", 5)
    found = json.loads(dimo(*call, "--gallery", "deep/page.html", "--json").stdout)
    assert found["gallery"] == "deep/page.html"
    page = Page((tmp_path / "deep" / "page.html").read_text())
    assert page.count("img") == 3
    for words in ("seven seed 5, image 0", "seven seed 5, image 2", "digits, 1 step"):
        assert words in page.words
    assert [a["alt"] for tag, a in page.elements if tag == "img"][1] == "seven, seed 5, image 1"


def test_the_command_at_the_foot_draws_the_same_pictures_again(dimo, tmp_path):
    call = ("sample", "--prompt", "a red circle", "-n", 2, "--teacher", "--steps", 2)
    assert dimo(*call, "--gallery", "a page.html").exit_code == 0
    first = (tmp_path / "a page.html").read_text()
    page = Page(first)
    written = re.search(r"(dimo sample .*?) Choose a picture", page.words)[1]
    assert dimo(*shlex.split(written)[1:]).exit_code == 0
    again = Page((tmp_path / "a page.html").read_text())
    pictures = [[a["src"] for tag, a in p.elements if tag == "img"] for p in (page, again)]
    assert pictures[0] == pictures[1]


def test_a_strip_of_frames_has_a_gallery_too(dimo, tmp_path):
    found = dimo("sample", "--interpolate", "three", "eight", "--frames", 4, "--gallery", "x.html")
    assert found.exit_code == 0, found.stderr
    text = (tmp_path / "x.html").read_text()
    assert Page(text).count("img") == 4
    assert "dimo sample --interpolate three eight --frames 4 --gallery x.html" in Page(text).words


def test_another_kind_of_file_is_refused_before_anything_is_drawn(dimo, tmp_path):
    found = dimo("sample", "-n", 1, "--gallery", "x.pdf")
    assert found.exit_code == 2
    assert "must end in .html" in found.stderr
    assert not (tmp_path / "samples.png").exists()


def test_nothing_that_is_drawn_or_typed_becomes_markup():
    text = render(gallery(Group(ATTACK, shots(2, condition=ATTACK)), again=f"`dimo {ATTACK}`"))
    page = Page(text)
    assert page.count("script") == 1
    assert not [tag for tag, attributes in page.elements if "onerror" in attributes]
    assert page.words.count(ATTACK) >= 2


def test_the_page_asks_for_nothing_and_shows_the_first_of_very_many():
    text = render(gallery(Group("", shots(1001))))
    page = Page(text)
    assert page.count("img") == 1000
    assert "1 more images are left out" not in page.words
    assert "1 more image is left out" in page.words
    assert "default-src 'none'" in text
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))


def test_hundreds_of_large_pictures_are_a_page_that_can_be_passed_on():
    soft = np.asarray(Image.effect_noise((512, 512), 20).convert("RGB"))
    one = shot(soft, "x", "seed 0")
    assert one.uri.startswith("data:image/jpeg")
    assert shot(soft[:64, :64], "x", "seed 0").uri.startswith("data:image/png")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "gallery.html"
    path.write_text(render(gallery(Group(ATTACK, shots(3)), Group("two", shots(40, 200)))))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_is_accessible_and_self_contained_in_a_browser(open_page, written, width, dark):
    seen = open_page(written, width, dark)
    assert seen.inaccessible() == []
    seen.page.locator(".zoom").first.click()
    assert seen.inaccessible() == []
    assert not seen.is_wider_than_the_window()
    assert seen.requests == []
    assert seen.errors == []


@pytest.mark.slow
def test_a_picture_is_enlarged_and_walked_through_with_the_keyboard(open_page, written):
    page = open_page(written).page
    first = page.get_by_role("button", name="Enlarge: seven, seed 3, image 0").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.locator("p").inner_text() == "seven, seed 3, image 0 (1 of 3)"
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text() == "seven, seed 3, image 1 (2 of 3)"
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text() == "seven, seed 3, image 2 (3 of 3)"
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    page.evaluate("new Promise(done => setTimeout(done, 50))")  # its `close` is a task of its own
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Enlarge: seven, seed 3, image 2"
