"""The page of `dimo play` in a real browser, as a person meets it."""

import json
import re
import signal
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

import pytest
from PIL import Image

pytest.importorskip("starlette")
api = pytest.importorskip("playwright.sync_api", reason="extra `browser` is not installed")
expect = api.expect

pytest_plugins = ("tests.helpers.browser",)
pytestmark = pytest.mark.slow
PHONE = 390
PATIENCE = 60_000  # milliseconds; the machine may be busy


def start(student, *more):
    """`dimo play` as a process, and the address it says."""
    command = [sys.executable, "-m", "dimo_cli", "play", student, "--port", "0", "--json", *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = ""
    while not lines.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines += line
    return process, json.loads(lines)["url"]


def stop(process):
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture(scope="module")
def served():
    """Addresses of the pages of the built-in students."""
    running = {name: start(name) for name in ("digits", "shapes", "emoji")}
    yield {name: url for name, (_, url) in running.items()}
    for process, _ in running.values():
        code, said = stop(process)
        assert code == 0
        assert "Traceback" not in said


@pytest.fixture
def play(open_page, served):
    """Open the page of a student and wait for its first pictures."""

    def visit(name, **settings):
        seen = open_page(served[name], **settings)
        status_says(seen.page, r"\d+ images in ")
        return seen

    return visit


def status_says(page, pattern):
    expect(page.locator("#status")).to_have_text(re.compile(pattern), timeout=PATIENCE)


def sources(page, section="#pictures"):
    return [image.get_attribute("src") for image in page.locator(f"{section} img").all()]


def slide(page, control, value):
    """Move a slider as a person does: it tells the page about every change."""
    slider = page.locator(control)
    slider.evaluate(
        "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', {bubbles: true})) }", value
    )


def settle(page):
    """Wait until nothing is being drawn any more."""
    page.wait_for_timeout(300)
    expect(page.locator("#status")).not_to_have_class(re.compile("busy"), timeout=PATIENCE)


@pytest.mark.parametrize("name", ["digits", "shapes"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (PHONE, False)])
def test_the_whole_page_is_accessible_and_fits(play, name, width, dark):
    seen = play(name, width=width, dark=dark)
    if width == PHONE:
        seen.page.locator("summary").click()
    seen.page.get_by_label("Draw the same with the teacher").check()
    status_says(seen.page, r"teacher, 16 steps: ")
    if name == "shapes":
        seen.page.get_by_role("button", name="Optimize").click()
        status_says(seen.page, r"Optimized from .+ to ")
        expect(seen.page.locator("#tteo img")).to_have_count(2)
    assert seen.inaccessible() == []
    assert not seen.is_wider_than_the_window()
    assert seen.errors == []
    assert all(url.startswith(seen.page.url) for url in seen.requests)


def test_a_complaint_is_accessible_too(play):
    seen = play("digits", dark=True)
    slide(seen.page, "#count", 3)
    seen.page.get_by_label("Seed").fill("-4")
    alert = seen.page.get_by_role("alert")
    expect(alert).to_contain_text(
        "Seed is -4: must be greater than or equal to 0", timeout=PATIENCE
    )
    assert seen.inaccessible() == []
    seen.page.get_by_label("Seed").fill("4")
    expect(alert).to_be_hidden(timeout=PATIENCE)


def test_a_page_begins_with_four_pictures_of_the_student_and_four_of_its_teacher(play):
    page = play("shapes").page
    settle(page)
    for section in ("#pictures", "#teacher"):
        expect(page.locator(f"{section} img")).to_have_count(4, timeout=PATIENCE)


def test_old_pictures_are_dimmed_under_a_mistake_until_there_are_new_ones(play):
    page = play("shapes").page
    settle(page)
    page.get_by_label("Seed").fill("-4")
    expect(page.get_by_role("alert")).to_be_visible(timeout=PATIENCE)
    for section in ("#pictures", "#teacher"):
        expect(page.locator(f"{section} img").first).to_have_css("opacity", "0.3")
    page.get_by_label("Seed").fill("4")
    settle(page)
    for section in ("#pictures", "#teacher"):
        expect(page.locator(f"{section} img").first).to_have_css("opacity", "1")


def test_the_teacher_is_watched_from_masks_to_its_pictures(play):
    page = play("digits").page
    settle(page)
    before = sources(page, "#teacher")
    page.get_by_role("button", name="Watch its steps").click()
    expect(page.locator("#teacher-title")).to_have_text(
        re.compile(r"Teacher, step \d+ of 16"), timeout=PATIENCE
    )
    assert sources(page, "#teacher") != before
    expect(page.locator("#teacher-title")).to_have_text(re.compile("16 steps: "), timeout=PATIENCE)
    assert sources(page, "#teacher") == before


def test_a_picture_is_enlarged_and_its_neighbors_are_reached_by_keys(play):
    seen = play("digits")
    page = seen.page
    settle(page)
    page.get_by_role("button", name="Enlarge: zero, one step, image 1").click()
    dialog = page.get_by_role("dialog")
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("p")).to_have_text("zero, one step, image 2 (2 of 4)")
    assert seen.inaccessible() == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert seen.errors == []


def test_moving_a_control_draws_at_once(play):
    page = play("digits").page
    before = sources(page)
    assert len(before) == 4
    page.get_by_role("combobox", name="Class").select_option("seven")
    settle(page)
    sevens = sources(page)
    assert sevens != before
    expect(page.locator("#pictures img").first).to_have_attribute("alt", "seven, one step, image 1")
    for control, value in (("#r-init", "0.2"), ("#temperature", "3"), ("#count", "5")):
        slide(page, control, value)
        settle(page)
    assert len(sources(page)) == 5
    expect(page.locator("#pictures code")).to_have_text(
        "dimo sample --student digits --class 7 -n 5 --seed 0 --temperature 3 --r-init 0.2"
    )
    slide(page, "#count", "4")
    page.get_by_role("button", name="The student's own settings").click()
    settle(page)
    assert sources(page) == sevens
    page.get_by_role("button", name="New seed").click()
    settle(page)
    assert sources(page) != sevens


def test_only_the_newest_of_many_wishes_is_shown(play):
    page = play("shapes").page
    for step in range(30):
        slide(page, "#r-init", step / 30)
        page.wait_for_timeout(20)
    slide(page, "#r-init", "0.5")
    settle(page)
    expect(page.locator("#pictures code")).to_have_text(re.compile(r"--r-init 0\.5$"))


def test_a_prompt_is_drawn_when_the_typing_pauses_and_none_is_asked_for(play):
    page = play("shapes").page
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("three green triangles")
    expect(page.locator("#pictures img").first).to_have_attribute(
        "alt", "three green triangles, one step, image 1", timeout=PATIENCE
    )
    prompt.fill("")
    status_says(page, "^Type a prompt.$")
    page.get_by_role("group", name="Example prompts").get_by_role("button").nth(1).click()
    settle(page)
    assert prompt.input_value()
    expect(page.locator("#pictures code")).to_contain_text(prompt.input_value())


def test_words_that_no_picture_shows_are_told_until_there_is_another_prompt(play):
    seen = play("emoji")
    page = seen.page
    prompt, note = page.get_by_label("Prompt", exact=True), page.locator("#note")
    expect(note).to_be_hidden()
    prompt.fill("two red foxes")
    expect(note).to_have_text("emoji leaves out two, red: its images do without.", timeout=PATIENCE)
    settle(page)
    assert seen.inaccessible() == []
    prompt.fill("a fox")
    expect(note).to_be_hidden(timeout=PATIENCE)


def test_a_prompt_of_nothing_known_is_refused_with_the_nearest_names(play):
    seen = play("emoji", width=PHONE)
    settle(seen.page)
    prompt = seen.page.get_by_label("Prompt", exact=True)
    prompt.fill("a rokcet")
    alert = seen.page.get_by_role("alert")
    expect(alert).to_contain_text("Did you mean rocket? It knows", timeout=PATIENCE)
    expect(alert).to_contain_text("dimo sample --preset meissonic --teacher")
    assert seen.inaccessible() == []
    assert not seen.is_wider_than_the_window()
    prompt.fill("a rocket")
    expect(alert).to_be_hidden(timeout=PATIENCE)


def test_a_saved_picture_knows_what_made_it(play, tmp_path):
    page = play("digits").page
    with page.expect_download() as download:
        page.get_by_role("link", name="Save PNG one step, image 2").click()
    assert download.value.suggested_filename == "digits-zero-seed-0-1.png"
    download.value.save_as(tmp_path / "saved.png")
    facts = Image.open(tmp_path / "saved.png").text
    assert (facts["dimo.class"], facts["dimo.seed"], facts["dimo.index"]) == ("zero", "0", "1")


def test_an_optimization_can_be_watched_and_stopped(play):
    page = play("shapes").page
    page.get_by_label("Iterations").fill("64")
    page.get_by_label("Starts").fill("16")
    page.get_by_role("button", name="Optimize").click()
    status_says(page, r"Iteration [2-9] of 64: best score ")
    assert page.locator("#curve polyline").count() == 17
    page.get_by_role("button", name="Stop").click()
    status_says(page, "^Stopped.$")
    expect(page.get_by_role("button", name="Optimize")).to_be_focused()
    page.get_by_role("button", name="New seed").click()
    status_says(page, "images in ")  # the model is free again, long before 64 iterations


def test_the_page_can_be_used_with_the_keyboard_alone(play):
    page = play("shapes").page
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the pictures")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("a blue circle")
    page.keyboard.press("Enter")
    expect(page.locator("#pictures img").first).to_have_attribute(
        "alt", re.compile("^a blue circle, "), timeout=PATIENCE
    )
    ratio = float(page.locator("#r-init").input_value())
    page.locator("#r-init").focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    expect(page.locator("#pictures code")).to_contain_text(f"--r-init {ratio - 0.01:.2f}")


def test_many_classes_are_searched_and_a_wrong_one_is_a_sentence(open_page, served):
    """The facts of a student of 40 classes, in front of the server of `digits`."""
    facts = json.load(urlopen(f"{served['digits']}/facts"))
    facts["classes"] = [*facts["classes"], *(f"class {n}" for n in range(10, 40))]
    blank = open_page("about:blank")
    blank.page.route("**/facts", lambda route: route.fulfill(json=facts))
    blank.page.goto(served["digits"])
    status_says(blank.page, "images in ")
    search = blank.page.get_by_role("combobox", name="Class")
    search.fill("eigt")
    alert = blank.page.get_by_role("alert")
    expect(alert).to_contain_text(
        re.compile(r"There is no class eigt\.\s*Did you mean eight\?"), timeout=PATIENCE
    )
    search.fill("eight")
    expect(blank.page.locator("#pictures img").first).to_have_attribute(
        "alt", "eight, one step, image 1", timeout=PATIENCE
    )
    assert blank.inaccessible() == []


def test_ctrl_c_ends_it_cleanly_in_the_middle_of_an_optimization(open_page):
    process, url = start("shapes")
    page = open_page(url).page
    status_says(page, "images in ")
    page.get_by_label("Iterations").fill("64")
    page.get_by_label("Starts").fill("16")
    page.get_by_role("button", name="Optimize").click()
    status_says(page, r"Iteration \d+ ")
    began = time.monotonic()
    code, said = stop(process)
    assert code == 0
    assert "Ended." in said
    assert "Traceback" not in said
    assert time.monotonic() - began < 20
    page.get_by_role("button", name="New seed").click()
    expect(page.get_by_role("alert")).to_contain_text(
        "The server does not answer", timeout=PATIENCE
    )


def test_a_host_of_elsewhere_is_refused_by_the_running_server(served):
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(f"{served['digits']}/facts", headers={"Host": "evil.example"}))


def test_sharing_the_page_is_warned_about():
    process, url = start("digits", "--host", "0.0.0.0")
    person = build_opener(HTTPCookieProcessor())
    person.open(url)  # the address with the token
    page = url.partition("/enter")[0]
    assert json.load(person.open(f"{page}/facts"))["student"] == "digits"
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{page}/facts")
    code, said = stop(process)
    assert code == 0
    assert "Whoever has the whole address can use this page, and nobody else can." in said
