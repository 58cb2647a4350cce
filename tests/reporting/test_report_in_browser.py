"""A report in a real browser: accessible, self-contained, worked by keys and on paper."""

import pytest

from dimo_cli.reporting.page import render
from tests.helpers.browser import assert_sound_with_all_opened
from tests.helpers.reports import ATTACK, make_outcome, make_run, record

pytest_plugins = ("tests.helpers.browser",)


@pytest.fixture
def written(tmp_path):
    """A report of a run and one of optimized prompts, both with hostile text in them."""
    run = make_run(tmp_path / "run", steps=30, records=[
        record(step, skipped=1, **{ATTACK: 0.5}) for step in range(1, 31)])  # fmt: skip
    (run / "notes.txt").write_text(ATTACK)
    make_outcome(tmp_path / "tteo" / "one", ATTACK)
    for folder in (run, tmp_path / "tteo"):
        (folder / "report.html").write_text(render(folder))
    return {"run": run / "report.html", "tteo": tmp_path / "tteo" / "report.html"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "tteo"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible_and_self_contained_in_a_browser(
    open_page, written, kind, width, dark
):
    seen = open_page(written[kind], width, dark)
    assert_sound_with_all_opened(seen)


@pytest.mark.slow
def test_axe_is_at_work(open_page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='data:,'><input></body></html>")
    assert len(open_page(bad).inaccessible()) >= 2


@pytest.mark.slow
def test_the_slider_is_worked_by_keys_and_a_curve_by_the_pointer(open_page, written):
    page = open_page(written["run"]).page
    slider = page.get_by_label("Training step")
    slider.focus()
    assert page.locator("output").inner_text() == "step 30"
    page.keyboard.press("Home")
    assert page.locator("output").inner_text() == "step 10"
    assert slider.get_attribute("aria-valuetext") == "step 10"
    shown = page.locator(".slide:visible img")
    assert shown.count() == 1
    assert shown.get_attribute("alt") == "Grid of samples at step 10"
    chart = page.locator(".chart").filter(has_text="top-1").first
    chart.locator("svg").first.hover()
    assert "top-1 probability 0.5" in chart.locator(".readout").inner_text()


@pytest.mark.slow
def test_pictures_are_enlarged_and_the_arrows_go_through_the_steps(open_page, written):
    page = open_page(written["run"]).page
    page.get_by_role("button", name="Enlarge: Grid of samples at step 30").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("img").get_attribute("alt") == "Grid of samples at step 30"
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text() == "Grid of samples at step 20 (2 of 3)"
    page.keyboard.press("Escape")
    assert dialog.count() == 0


@pytest.mark.slow
def test_no_table_breaks_a_word_on_a_phone(open_page, tmp_path, finished_run):
    page_file = tmp_path / "report.html"
    page_file.write_text(render(finished_run))
    page = open_page(page_file, width=390).page
    broken = page.evaluate(BROKEN_WORDS)
    assert broken == []


BROKEN_WORDS = """() => {
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    if (!node.parentElement.closest("table")) continue;
    for (const { 0: word, index } of node.textContent.matchAll(/[\\p{L}\\p{N}_]+/gu)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(word);
    }
  }
  return found;
}"""


@pytest.mark.slow
def test_without_scripts_and_on_paper_nothing_is_lost(open_page, written):
    plain = open_page(written["run"], java_script_enabled=False).page
    assert plain.locator(".slide:visible").count() == 3
    assert plain.locator("input:visible").count() == 0
    paper = open_page(written["run"]).page
    paper.emulate_media(media="print")
    assert paper.locator("nav:visible").count() == 0
    assert paper.locator(".slide:visible figcaption").inner_text() == "step 30"
