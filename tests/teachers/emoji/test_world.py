"""The world of `emoji`: captions are true and read as they are meant, and pictures are composed."""

import random

import numpy as np
import pytest

from dimo_cli.teachers.emoji.symbols import called, name_of
from dimo_cli.teachers.emoji.world import (
    BACKGROUNDS,
    SIDE,
    SIZES,
    STYLES,
    Look,
    caption,
    compose,
    held_out,
    prompt_for,
    random_look,
    random_scene,
    read,
    things,
    trained_on,
    vocabulary,
)


@pytest.fixture
def rng():
    return random.Random(0)


def number_of(name):
    return next(number for number, thing in enumerate(things()) if name in thing.names)


def test_there_are_hundreds_of_things_and_no_two_share_a_name():
    names = [name for thing in things() for name in thing.names]
    assert 250 <= len(things()) <= 400
    assert len(names) == len(set(names))
    assert len({thing.key for thing in things()}) == len(things())


def test_every_caption_is_read_back_as_what_it_says(rng):
    for _ in range(500):
        scene = random_scene(random_look(rng, trained_on()), rng)
        reading = read(caption(scene, rng))
        assert reading.scene == scene
        assert reading.left_out == ()


def test_every_name_of_every_thing_is_read_as_that_thing():
    for number, thing in enumerate(things()):
        for name in thing.names:
            assert read(name).scene.thing == number, name


def test_a_caption_is_true_of_its_picture(rng):
    for _ in range(300):
        look = random_look(rng, trained_on())
        scene = random_scene(look, rng)
        said = (scene.thing, scene.style, scene.background, scene.size, scene.place)
        seen = (look.thing, look.style, look.background, look.size, look.place)
        assert all(a in (None, b) for a, b in zip(said, seen, strict=True))
        assert look.mirrored or not scene.mirrored


def test_captions_leave_open_style_background_size_and_which_way_a_thing_faces(rng):
    scenes = [random_scene(random_look(rng, trained_on()), rng) for _ in range(400)]
    for field in ("style", "background", "size"):
        said = sum(getattr(scene, field) is not None for scene in scenes) / len(scenes)
        assert 0.2 < said < 0.8, field
    assert sum(scene.mirrored for scene in scenes) / len(scenes) < 0.1


def test_one_style_of_every_tenth_thing_is_never_trained_on(rng):
    assert len(held_out()) == len(range(5, len(things()), 10))
    assert {style for _, style in held_out()} == set(STYLES)
    assert not held_out() & set(trained_on())
    assert len(trained_on()) + len(held_out()) == 2 * len(things())
    for _ in range(300):
        look = random_look(rng, trained_on())
        assert (look.thing, look.style) not in held_out()


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("ant", "an ant"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"),
     ("red apple", "a red apple"), ("umbrella", "an umbrella"), ("scissors", "scissors")],
)  # fmt: skip
def test_articles_are_those_of_english(name, prompt):
    assert prompt_for(number_of(name)) == prompt


@pytest.mark.parametrize(
    ("typed", "left_out"),
    [
        ("a red fox in the snow", ("red", "snow")),
        ("a fox and a dog", ("dog",)),
        ("Two FOXES!", ("two",)),
        ("no apple", ("no",)),
        ("a red apple on blue " * 100, ()),
        ("a fox on blue, on pink", ("pink",)),
        ("a fox 🙂 and a 🍎", ("🙂", "red", "apple")),
        ("a fox, सेब", ("सेब",)),
        ("a fox's picture", ()),
        ("a small fluent-style rocket on blue, at the left", ()),
        ("a picture of the fox", ()),
        ("", ()),
    ],
)
def test_words_that_say_nothing_here_are_told(typed, left_out):
    assert read(typed).left_out == left_out


def test_the_first_thing_of_a_prompt_is_drawn_and_the_longest_name_counts():
    assert read("a fox and a dog").scene.thing == number_of("fox")
    assert read("a hot dog").scene.thing == number_of("hot dog")
    assert read("three polar bears").scene.thing == number_of("polar bear")
    assert read("a sofa").scene.thing is None


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("🍎", "red apple"), ("a small 🚀 on blue", "rocket"), ("🐱", "cat"), ("❤️", "heart"),
        ("🪼", "jellyfish"), ("🐻‍❄️", "polar bear"), ("🐈‍⬛", "black cat"),
        ("🙂", None), ("!?", None), ("красное яблоко", None),
        ("ＲＥＤ ＡＰＰＬＥ", "red apple"),
    ],
)  # fmt: skip
def test_an_emoji_is_read_as_what_it_shows(typed, name):
    thing = read(typed).scene.thing
    assert (thing if thing is None else things()[thing].names[0]) == name


def test_nearly_every_thing_is_an_emoji_and_each_of_ours_is_a_thing():
    assert set(called().values()) <= {name for thing in things() for name in thing.names}
    symbols = [*called(), *map(chr, range(0x2600, 0x2800)), *map(chr, range(0x1F300, 0x1FB00))]
    shown = {read(symbol).scene.thing for symbol in symbols if name_of(symbol)}
    assert len(shown - {None}) >= 0.95 * len(things())


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("two foxes", "fox"), ("wolves", "wolf"), ("strawberries", "strawberry"), ("mice", "mouse"),
        ("knives", "dagger"), ("some octopi", "octopus"), ("a book", "books"), ("a taxi", "taxi"),
    ],
)  # fmt: skip
def test_a_thing_is_known_in_the_singular_and_in_the_plural(typed, name):
    assert read(typed).scene.thing == number_of(name)


def test_a_prompt_may_be_written_as_people_write():
    scene = read("  A huge Noto-style T-Shirt, on a GREY background!").scene
    assert (scene.thing, scene.style) == (number_of("t shirt"), "noto")
    assert (scene.background, scene.size) == ("gray", "large")


def test_the_vocabulary_starts_with_no_word_and_has_none_twice():
    words = vocabulary()
    assert words[0] == ""
    assert len(set(words)) == len(words)


@pytest.fixture
def drawings():
    """A thing whose left half is opaque red, and the rest clear."""
    drawn = {}
    for size, side in SIZES.items():
        half = np.zeros((1, 2, side, side, 4), np.uint8)
        half[..., : side // 2, :] = (255, 0, 0, 255)
        drawn[size] = half
    return drawn


def test_a_thing_stands_on_its_background_at_its_place(drawings):
    blue = BACKGROUNDS["blue"]
    large = compose(Look(0, "noto", "blue"), drawings)
    assert large.shape == (SIDE, SIDE, 3)
    assert tuple(large[16, 4]) == (255, 0, 0)
    assert tuple(large[16, 20]) == tuple(large[0, 0]) == blue
    small = compose(Look(0, "noto", "blue", "small", "bottom"), drawings)
    assert tuple(small[8, 8]) == blue
    assert tuple(small[12, 8]) == (255, 0, 0)


def test_a_mirrored_thing_faces_the_other_way(drawings):
    plain = compose(Look(0, "noto", "white"), drawings)
    turned = compose(Look(0, "noto", "white", mirrored=True), drawings)
    assert np.array_equal(turned, plain[:, ::-1])
    assert not np.array_equal(turned, plain)


def test_a_place_shifts_a_picture_by_whole_patches(drawings):
    left, right = (
        compose(Look(0, "noto", "pink", "small", p), drawings) for p in ("left", "right")
    )
    assert np.array_equal(left[:, :24], right[:, 8:])
