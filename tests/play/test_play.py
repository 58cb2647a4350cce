"""`dimo play`: what the page is answered, without a browser."""

import asyncio
import base64
import io
import json
import shlex
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from dimo_cli.errors import MissingError
from dimo_cli.metrics.shapes import read_picture
from dimo_cli.play.door import Door, is_loopback
from dimo_cli.play.server import ModelThread, NobodyListens, build_app, open_port
from dimo_cli.play.studio import Studio
from dimo_cli.reporting.document import own_text
from dimo_cli.sampling.samplers import sample_images
from dimo_cli.specs.manifest import MANIFEST
from dimo_cli.specs.play import TeacherAsk
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.folder import BUILTIN, load_student, read_manifest
from dimo_cli.students.target import Target

PROMPT = "a red circle above a blue square"


@pytest.fixture(scope="module")
def studios():
    return {name: Studio(load_student(path), name) for name, path in BUILTIN.items()}


@pytest.fixture
def client(studios):
    """Ask the page of a built-in student, by a name that its machine goes by."""

    def of(name):
        app = build_app(studios[name], ModelThread(), Door())
        return TestClient(app, base_url="http://127.0.0.1")

    return of


def events(response):
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def png(picture):
    data = picture["src"].removeprefix("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def same_picture(one, other):
    return one.text == other.text and np.array_equal(np.asarray(one), np.asarray(other))


def run_command(dimo, command, *more):
    words = shlex.split(command)
    assert words[0] == "dimo"
    result = dimo(*words[1:], *more)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "action", "wish"),
    [
        ("digits", "draw", {"condition": "seven", "count": 3, "seed": 5}),
        ("digits", "draw", {"condition": "7", "count": 2, "temperature": 2.5, "r_init": 0.25}),
        ("digits", "teacher", {"condition": "3", "count": 2, "steps": 4}),
        ("shapes", "draw", {"condition": PROMPT, "count": 2, "seed": 9}),
        ("shapes", "teacher", {"condition": PROMPT, "count": 2, "steps": 3, "seed": 1}),
    ],
)
def test_the_command_beside_the_pictures_makes_the_very_same_files(
    client, dimo, name, action, wish
):
    (answer,) = [e for e in events(client(name).post(action, json=wish)) if "images" in e]
    assert len(answer["images"]) == wish["count"]
    run_command(dimo, answer["command"], "--out", "again")
    for index, shown in enumerate(answer["images"]):
        assert same_picture(png(shown), Image.open(f"again/{index:05d}.png"))


def test_a_picture_says_what_made_it(client, studios):
    wish = {"condition": "seven", "count": 1, "seed": 5, "temperature": 2.0, "r_init": 0.3}
    (answer,) = events(client("digits").post("draw", json=wish))
    facts = png(answer["images"][0]).text
    assert facts["dimo.student"] == studios["digits"].student.manifest.weights_sha256
    assert (facts["dimo.class"], facts["dimo.seed"]) == ("seven", "5")
    settings = json.loads(facts["dimo.sampler"])
    assert (settings["temperature"], settings["r_init"], settings["steps"]) == (2.0, 0.3, 1)
    assert answer["images"][0]["file"] == "digits-seven-seed-5-0.png"


def test_r_init_and_temperature_change_the_picture_and_the_students_own_are_the_default(client):
    def drawn(**settings):
        wish = {"condition": "4", "count": 1, "seed": 2, **settings}
        (answer,) = events(client("digits").post("draw", json=wish))
        return np.asarray(png(answer["images"][0])), answer["command"]

    plain, command = drawn()
    own, own_command = drawn(r_init=0.6, temperature=1.0)
    assert np.array_equal(plain, own)
    assert command == own_command == "dimo sample --student digits --class 4 -n 1 --seed 2"
    assert not np.array_equal(plain, drawn(r_init=0.1)[0])
    assert not np.array_equal(plain, drawn(temperature=50)[0])


def test_an_optimization_is_told_iterate_by_iterate_and_its_command_does_the_same(client, dimo):
    wish = {
        "condition": PROMPT, "seed": 3, "starts": 2, "iterations": 3, "learning_rate": 0.01,
    }  # fmt: skip
    told = events(client("shapes").post("tteo", json=wish))
    curve = [event for event in told if "scores" in event]
    assert [event["iterate"] for event in curve] == [0, 1, 2, 3]
    assert all(len(event["scores"]) == 2 for event in curve)
    answer = told[-1]
    best = max(score for event in curve for score in event["scores"])
    assert answer["score_before"] == curve[0]["scores"][0]
    assert answer["score_after"] == best
    run_command(dimo, answer["command"])
    (folder,) = Path("tteo").iterdir()
    for moment in ("before", "after"):
        assert same_picture(png(answer[moment]), Image.open(folder / f"{moment}.png"))


def test_a_teacher_is_watched_step_by_step_and_draws_the_same(client):
    wish = {"condition": "7", "count": 2, "steps": 3, "seed": 1}
    plain, watched = (
        events(client("digits").post("teacher", json={**wish, "watch": watch}))
        for watch in (False, True)
    )
    assert [event["step"] for event in plain[-4:-1]] == [1, 2, 3]
    assert not any("frames" in event for event in plain)
    frames = [event["frames"] for event in watched[-4:-1]]
    assert [len(pictures) for pictures in frames] == [2, 2, 2]
    last = [np.asarray(png({"src": source}).convert("RGB")) for source in frames[-1]]
    for one, picture in zip(last, watched[-1]["images"], strict=True):
        assert np.array_equal(one, np.asarray(png(picture)))
    assert [p["src"] for p in plain[-1]["images"]] == [p["src"] for p in watched[-1]["images"]]


def test_of_very_many_steps_some_are_shown_and_the_last_is(client):
    wish = {"condition": "7", "count": 1, "steps": 50, "watch": True}
    told = events(client("digits").post("teacher", json=wish))
    shown = [event["step"] for event in told if "frames" in event]
    assert shown == list(range(2, 51, 2))


def test_a_teacher_that_nobody_waits_for_stops_within_its_steps(studios):
    said = []

    def say(event):
        said.append(event)
        if "step" in event:
            raise NobodyListens

    with pytest.raises(NobodyListens):
        studios["digits"].draw_teacher(TeacherAsk(condition="7", steps=16), say)
    assert said[-1] == {"step": 1, "of": 16}


def test_the_page_has_the_lightbox_of_the_reports(client):
    for name in ("lightbox.js", "lightbox.css"):
        assert client("digits").get(f"/{name}").text == own_text(f"shared/{name}")


def test_the_first_prompt_of_a_text_student_is_one_that_it_draws_well(client, studios):
    """As the judge of the built-in world sees it: all that is asked, and nothing else."""
    first = client("shapes").get("/facts").json()["examples"][0]
    student = studios["shapes"].student
    target = Target(student.teacher, student)
    pictures, _ = sample_images(target, [first] * 64, SamplerSpec(seed=0))
    things = [[(one.color, one.shape) for one in read_picture(p)[0]] for p in pictures]
    assert sum(found == [("yellow", "triangle")] * 2 for found in things) >= 0.7 * 64


def test_the_page_learns_what_the_student_takes(client):
    digits = client("digits").get("/facts").json()
    assert not digits["takes_prompts"]
    assert digits["classes"][7] == "seven"
    assert "takes classes" in digits["tteo"]["refusal"]
    shapes = client("shapes").get("/facts").json()
    assert shapes["takes_prompts"]
    assert shapes["tteo"]["rewards"] == ["shapes_clip", "shapes_preference"]
    assert len(shapes["examples"]) == 4
    assert shapes["tteo"]["step_size"] == 0.1
    own = read_manifest(BUILTIN["shapes"] / MANIFEST)
    assert shapes["r_init"] == own.init.mask_ratio.value
    assert (shapes["temperature"], shapes["teacher_steps"]) == (own.temperature, 16)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"condition": "  "}, "`Prompt or class` is '  '"),
        ({}, "`Prompt or class` is missing"),
        ({"condition": "1", "count": 17}, "`Images` is 17: must be less than or equal to 16"),
        ({"condition": "1", "temperature": 0}, "`Temperature` is 0: must be greater than 0"),
        ({"condition": "1", "r_init": 1.5}, "`r_init` is 1.5"),
        ({"condition": "1", "seed": "x"}, "`Seed` is 'x'"),
        ({"condition": "1" * 1001}, "at most 1000 characters"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_the_words_of_the_page(client, wish, sentence):
    answer = client("digits").post("draw", json=wish)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize("action", ["draw", "teacher", "tteo"])
def test_words_that_no_picture_shows_are_told_beside_it(client, action):
    settings = {"draw": {}, "teacher": {"steps": 1}, "tteo": {"starts": 1, "iterations": 0}}
    wish = {"condition": "two red foxes", **settings[action]}
    answer = events(client("emoji").post(action, json=wish))[-1]
    assert answer["note"] == "`emoji` leaves out `two`, `red`: its images do without."
    answer = events(client("emoji").post(action, json=wish | {"condition": "a fox"}))[-1]
    assert "note" not in answer


def test_a_prompt_of_nothing_known_is_answered_with_the_nearest_names(client):
    (answer,) = events(client("emoji").post("draw", json={"condition": "a rokcet"}))
    assert answer["error"] == "`emoji` has no drawing of anything in the prompt 'a rokcet'."
    assert answer["hint"].startswith("Did you mean `rocket`? It knows 295 things")


def test_prompts_to_begin_with_are_read_whole(client):
    for prompt in client("emoji").get("/facts").json()["examples"]:
        answer = events(client("emoji").post("draw", json={"condition": prompt, "count": 1}))[-1]
        assert answer["images"]
        assert "note" not in answer


def test_a_class_that_does_not_exist_is_answered_with_a_guess(client):
    (answer,) = events(client("digits").post("draw", json={"condition": "sevn"}))
    assert answer == {
        "error": "There is no class `sevn`.",
        "hint": "Did you mean `seven`? By name: zero, one, two, three, four, five, six, seven, "
        "eight, nine.",
    }


def test_a_class_student_refuses_to_be_optimized(client):
    answer = events(client("digits").post("tteo", json={"condition": "7"}))[-1]
    assert answer["error"] == "`digits` takes classes, and rewards read prompts."


def test_an_error_of_our_own_is_a_sentence_and_the_next_wish_is_answered(
    client, studios, monkeypatch, caplog
):
    def fail(*_, **__):
        raise ZeroDivisionError("a slip")

    page = client("digits")
    with monkeypatch.context() as patch:
        patch.setattr("dimo_cli.play.studio.sample_images", fail)
        (answer,) = events(page.post("draw", json={"condition": "7"}))
    assert answer["error"] == "That failed: ZeroDivisionError."
    assert "a slip" in caplog.text  # for whoever looks at the terminal
    assert "images" in events(page.post("draw", json={"condition": "7"}))[0]


def test_other_pages_cannot_ask(client):
    page = client("digits")
    form = page.post("draw", content=b'{"condition": "7"}', headers={"content-type": "text/plain"})
    assert form.status_code == 415
    rebound = page.get("/facts", headers={"host": "evil.example"})
    assert rebound.status_code == 400
    for name in ("localhost:8190", "127.0.0.1:1", "[::1]:8190"):
        assert page.get("/facts", headers={"host": name}).status_code == 200
    assert page.get("/draw").status_code == 404  # wishes are posted


def test_what_is_no_wish_at_all_is_refused(client):
    page = client("digits")
    as_json = {"content-type": "application/json"}
    assert page.post("draw", content=b"{" + b" " * 20_000, headers=as_json).status_code == 413
    assert page.post("draw", content=b"{not json", headers=as_json).status_code == 400
    assert page.post("draw", content=b"[1]", headers=as_json).status_code == 400
    assert page.post("nothing", json={}).status_code in (404, 405)


HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def test_the_page_and_its_parts_are_served_and_come_from_nowhere_else(client):
    page = client("digits")
    for part in ("/", "/play.css", "/play.js", "/curve.js", "/icon.svg"):
        answer = page.get(part)
        assert answer.status_code == 200
        assert HEADERS.items() <= answer.headers.items()
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", ""), part
    assert page.get("/%2e%2e/server.py").status_code == 404


def take(lines):
    async def all_of_them():
        return [json.loads(line) async for line in lines]

    return asyncio.run(all_of_them())


def test_wishes_are_answered_one_after_the_other():
    models, running, most = ModelThread(), [], []

    def work(say):
        running.append(1)
        most.append(len(running))
        say({"thread": threading.get_ident()})
        running.pop()

    async def together():
        async def one():
            return [json.loads(line) async for line in models.lines(work)]

        return await asyncio.gather(*(one() for _ in range(5)))

    answers = asyncio.run(together())
    assert most == [1] * 5
    assert len({answer[0]["thread"] for answer in answers}) == 1


def test_a_wish_that_nobody_waits_for_is_not_begun_and_one_that_runs_is_stopped():
    models, begun, free = ModelThread(), [], threading.Event()

    def long(say):
        begun.append("long")
        say({"word": 1})
        free.wait(10)
        say({"word": 2})
        begun.append("never")

    def waiting(say):
        begun.append("waiting")

    async def scene():
        first = models.lines(long)
        await anext(first)
        second = asyncio.ensure_future(anext(models.lines(waiting)))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0.05)
        await first.aclose()
        free.set()
        return [line async for line in models.lines(lambda say: say({"word": 3}))]

    assert asyncio.run(scene()) == [b'{"word": 3}\n']
    assert begun == ["long"]


def test_closing_ends_what_runs():
    models = ModelThread()

    def endless(say):
        while True:
            say({"word": 1})
            models.close()

    assert take(models.lines(endless)) == [{"word": 1}]
    assert take(models.lines(endless)) == []


def test_numbers_that_json_has_no_word_for_are_an_error():
    answer = take(ModelThread().lines(lambda say: say({"score": float("nan")})))
    assert "error" in answer[-1]


def test_the_rewards_of_the_command_are_those_of_the_page(studios):
    studio = Studio(studios["shapes"].student, "shapes", TteoSpec(rewards={"shapes_clip": 2.0}))
    assert studio.facts()["tteo"]["rewards"] == ["shapes_clip"]
    assert "--reward shapes_clip=2" in studio.tteo_command(PROMPT, studio.tteo)


def test_a_port_that_is_taken_is_a_sentence():
    with open_port("127.0.0.1", 0) as taken:
        assert is_loopback(taken)
        port = taken.getsockname()[1]
        with pytest.raises(MissingError, match=f"Port {port} of 127.0.0.1 is in use"):
            open_port("127.0.0.1", port)
    with pytest.raises(MissingError, match=r"Cannot listen at 203\.0\.113\.7"):
        open_port("203.0.113.7", 0)
    for name in ("a..b", "x" * 70):
        with pytest.raises(MissingError, match="that is no machine's name"):
            open_port(name, 0)


def test_only_loopback_counts_as_this_machine_alone():
    with open_port("0.0.0.0", 0) as everywhere:
        assert not is_loopback(everywhere)


def test_without_the_extra_it_says_how_to_get_it(dimo, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = dimo("play", "digits")
    assert result.exit_code == 3
    assert "pipx inject dimo-cli starlette uvicorn" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (("/nowhere",), 3, "does not exist"),
        (("shapes", "--reward", "clp"), 2, "Did you mean `clip`?"),
        (("shapes", "--reward", "clip=-1"), 2, "`--reward clip` is -1.0: must be greater than 0"),
        (("digits", "--reward", "clip=1"), 2, "`digits` takes classes, and rewards read prompts"),
    ],
)
def test_what_cannot_be_played_with_is_refused(dimo, arguments, exit_code, sentence):
    result = dimo("play", *arguments, "--port", "0", "--no-open")
    assert result.exit_code == exit_code
    assert sentence in result.stderr


def test_help_and_refusals_come_without_a_server(dimo):
    assert "dimo play shapes" in dimo("play", "--help").stdout
    assert dimo("play", "--port", "x").exit_code == 2


def test_emoji_is_shown_where_nobody_names_a_student(dimo, monkeypatch):
    monkeypatch.setattr(
        "dimo_cli.play.server.serve", lambda studio, listening, door, ready: ready()
    )
    assert json.loads(dimo("play", "--port", "0", "--json").stdout)["student"] == "emoji"


def test_the_address_is_one_that_a_browser_on_this_machine_understands():
    from dimo_cli.commands.play import page_url

    class Listening:
        def __init__(self, *name):
            self.name = name

        def getsockname(self):
            return self.name

    assert page_url(Listening("127.0.0.1", 80)) == "http://127.0.0.1:80"
    assert page_url(Listening("0.0.0.0", 81)) == "http://127.0.0.1:81"
    assert page_url(Listening("::", 82, 0, 0)) == "http://[::1]:82"


def test_r_init_is_for_students_alone(dimo):
    result = dimo("sample", "--teacher", "--class", "7", "--r-init", "0.5")
    assert result.exit_code == 2
    assert "--r-init applies to students" in result.stderr
