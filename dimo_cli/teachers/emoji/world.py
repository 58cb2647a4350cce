"""The world of the teacher `emoji`: things, how captions speak of them, and how they are drawn.

A picture shows one thing in one of two styles on a plain background: large, or small somewhere. A
caption always says the thing, and everything it says is true of the picture. What it does not say
is drawn at random, and which way a thing faces is hardly ever said: that is what one pass of a
small network cannot settle. The drawings themselves do not ship; `examples/train_emoji.py` renders
them.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dimo_cli.teachers.emoji.symbols import JOINED, name_of

if TYPE_CHECKING:  # a world needs no PIL
    from dimo_cli.files.png import Pixels

SIDE = 32
STYLES = ("noto", "fluent")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "yellow": (255, 226, 128),
    "green": (166, 222, 160),
    "blue": (150, 205, 250),
    "pink": (250, 188, 214),
    "gray": (172, 178, 188),
}
SIZES: dict[str, int] = {"large": 28, "small": 20}  # sides of the square that a thing fills
# Left and upper edge of a thing. All are alike modulo 4, the side of a tokenizer's patch: so a
# thing looks the same to it wherever it is.
PLACES: dict[str, tuple[int, int]] = {
    "center": (6, 6),
    "left": (2, 6),
    "right": (10, 6),
    "top": (6, 2),
    "bottom": (6, 10),
}
LARGE_AT = (2, 2)
SHARE_LARGE = 0.65

SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little", "tiny")}
PLACE_WORDS = {
    "center": ("in the center", "in the middle"),
    **{side: (f"at the {side}", f"on the {side}") for side in ("left", "right")},
    **{side: (f"at the {side}", f"on the {side}") for side in ("top", "bottom")},
}
BACKGROUND_WORDS = ("on {}", "on {}", "on a {} background", "in front of a {} background")
STYLE_WORDS = ("{}-style", "{}")
MIRRORED_WORDS = ("mirrored", "flipped")
OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an emoji of ")

ARTICLES = ("a", "an", "the", "one")
# Words that say nothing here: they are passed over without a note.
PICTURES = ("picture", "image", "drawing", "photo", "emoji", "icon")
SMALL_WORDS = "of in on at to and with is are there background style side please draw show me s"
FILLERS = frozenset((*PICTURES, *SMALL_WORDS.split()))
VARIANTS = "\ufe0e\ufe0f"  # of a character: as text, as an emoji
# How words end in the plural, and without it; the last is of names that are plurals themselves.
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("mice", "mouse"),
           ("i", "us"), ("", "s"))  # fmt: skip
SAID_AS = {"grey": "gray", "centre": "center", "middle": "center", "huge": "large"}


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be drawn."""

    key: str
    """What its drawing is called in both sets."""
    names: tuple[str, ...]
    """What people call it; the first is the one that lists show."""
    bare: frozenset[str] = frozenset()
    """Those of its names that take no article."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption says; None is not said, and neither is that a thing is not mirrored."""

    thing: int | None
    style: str | None = None
    background: str | None = None
    size: str | None = None
    place: str | None = None
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like, with nothing left open."""

    thing: int
    style: str
    background: str
    size: str = "large"
    place: str = "center"
    mirrored: bool = False


@cache
def things() -> tuple[Thing, ...]:
    """All things, in a fixed order: a thing's number is its place here."""
    text = files(__package__).joinpath("things.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(parsed(line) for line in lines)


def parsed(line: str) -> Thing:
    """A line of the list of things."""
    key, names = line.split(": ")
    said = names.split(", ")
    bare = frozenset(name[1:] for name in said if name.startswith("~"))
    return Thing(key, tuple(name.removeprefix("~") for name in said), bare)


def held_out() -> frozenset[tuple[int, str]]:
    """One style of every tenth thing, which no network is trained on."""
    tenth = range(5, len(things()), 10)
    return frozenset((thing, STYLES[index % 2]) for index, thing in enumerate(tenth))


@cache
def trained_on() -> tuple[tuple[int, str], ...]:
    """All other pairs of a thing and a style."""
    pairs = ((thing, style) for thing in range(len(things())) for style in STYLES)
    return tuple(pair for pair in pairs if pair not in held_out())


def random_look(rng: random.Random, pairs: Sequence[tuple[int, str]]) -> Look:
    """A picture of one of these pairs of thing and style."""
    thing, style = rng.choice(pairs)
    background = rng.choice(list(BACKGROUNDS))
    mirrored = rng.random() < 0.5
    if rng.random() < SHARE_LARGE:
        return Look(thing, style, background, mirrored=mirrored)
    return Look(thing, style, background, "small", rng.choice(list(PLACES)), mirrored)


def random_scene(look: Look, rng: random.Random) -> Scene:
    """Something that a caption may say of a picture."""

    def some(value: str, share: float) -> str | None:
        return value if rng.random() < share else None

    return Scene(
        thing=look.thing,
        style=some(look.style, 0.6),
        background=some(look.background, 0.6),
        size=some(look.size, 0.35),
        place=some(look.place, 0.5) if look.size == "small" else None,
        mirrored=look.mirrored and rng.random() < 0.1,
    )


def compose(look: Look, drawings: Mapping[str, NDArray[np.uint8]]) -> Pixels:
    """A picture [32, 32, 3], from drawings [things, styles, side, side, RGBA] of each size."""
    drawn = drawings[look.size][look.thing, STYLES.index(look.style)].astype(np.float64)
    if look.mirrored:
        drawn = drawn[:, ::-1]
    side = SIZES[look.size]
    x, y = LARGE_AT if look.size == "large" else PLACES[look.place]
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = BACKGROUNDS[look.background]
    box = picture[y : y + side, x : x + side]
    cover = drawn[..., 3:] / 255
    box[:] = np.rint(drawn[..., :3] * cover + box * (1 - cover)).astype(np.uint8)
    return picture


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the ways to say a scene in English."""
    assert scene.thing is not None
    thing = things()[scene.thing]
    name = thing.names[0] if rng.random() < 0.5 else rng.choice(thing.names)
    before = [rng.choice(SIZE_WORDS[scene.size])] if scene.size else []
    style_first = rng.random() < 0.7
    if scene.style and style_first:
        before.append(rng.choice(STYLE_WORDS).format(scene.style))
    before += [rng.choice(MIRRORED_WORDS)] if scene.mirrored else []
    words = " ".join([*before, name])
    text = words if name in thing.bare else f"{article(words)} {words}"
    if scene.style and not style_first:
        text += f" in {scene.style} style"
    if scene.background:
        text += " " + rng.choice(BACKGROUND_WORDS).format(scene.background)
    if scene.place:
        text += ", " + rng.choice(PLACE_WORDS[scene.place])
    return rng.choice(OPENINGS) + text


def article(words: str) -> str:
    """The indefinite article before these words."""
    starts_with_vowel = words[0] in "aeiou" and not words.startswith(("unicorn", "one"))
    return "an" if starts_with_vowel or words.startswith("hourglass") else "a"


def prompt_for(thing: int) -> str:
    """The shortest caption of a thing."""
    name = things()[thing].names[0]
    return name if name in things()[thing].bare else f"{article(name)} {name}"


def words_of(text: str) -> list[str]:
    """The words of a text as the world spells them: no marks, no articles, no capitals."""
    words = spelled(text).split()
    return [SAID_AS.get(word, word) for word in words if word not in ARTICLES]


def spelled(text: str) -> str:
    """A text in small letters without marks, and with names in place of emoji."""
    text = unicodedata.normalize("NFKC", text).lower()
    for symbol, name in JOINED.items():
        text = text.replace(symbol, f" {name} ")
    return re.sub(r"[^\w]|_", lambda mark: spelled_out(mark[0]), text)


def spelled_out(mark: str) -> str:
    """An emoji as the name of what it shows, or as it is; of any other mark a gap."""
    if unicodedata.category(mark) in ("Mc", "Mn"):  # part of a letter, or of an emoji's looks
        return "" if mark in VARIANTS else mark
    name = name_of(mark).replace("-", " ")
    return f" {known_names().get(name, mark)} " if name else " "


@cache
def known_names() -> dict[str, str]:
    """The name of a thing by each that it has, also among drawings."""
    return {
        name: thing.names[0]
        for thing in things()
        for name in (thing.key.replace("-", " "), *thing.names)
    }


Fact = tuple[str, object]


@cache
def phrases() -> dict[tuple[str, ...], Fact]:
    """Every phrase that says something, and which field of a scene it fills with what."""
    found: dict[tuple[str, ...], Fact] = {}

    def add(text: str, field: str, value: object) -> None:
        found.setdefault(tuple(words_of(text)), (field, value))

    for number, thing in enumerate(things()):
        for name in thing.names:
            add(name, "thing", number)
    for style in STYLES:
        for text in (f"{style}-style", f"in {style} style", style):
            add(text, "style", style)
    for color in BACKGROUNDS:
        for form in (*BACKGROUND_WORDS, "with {} background", "{} background"):
            add(form.format(color), "background", color)
    for field, table in (("size", SIZE_WORDS), ("place", PLACE_WORDS)):
        for value, texts in table.items():
            for text in texts:
                add(text, field, value)
    for text in MIRRORED_WORDS:
        add(text, "mirrored", True)
    return found


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of every phrase, in a fixed order; the first is no word at all."""
    return ("", *sorted({word for phrase in phrases() for word in phrase}))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a prompt says in this world."""

    words: tuple[str, ...]
    """The words of the phrases that were understood."""
    scene: Scene
    left_out: tuple[str, ...]
    """The words that change nothing, in their order: unknown ones, and more things than one."""


def read(prompt: str) -> Reading:
    """Read a prompt phrase by phrase, the longest first; of each kind, the first one counts."""
    words, known = words_of(prompt), phrases()
    longest = max(map(len, known))
    kept: list[str] = []
    facts: dict[str, object] = {}
    left_out: list[str] = []
    at = 0
    while at < len(words):
        ends = range(min(len(words), at + longest), at, -1)
        matches = ((singular(tuple(words[at:end])), end) for end in ends)
        phrase, end = next(((p, end) for p, end in matches if p in known), ((), at + 1))
        field, value = known.get(phrase, ("", None))
        if field and field not in facts:
            facts[field] = value
            kept += phrase
        elif not field or facts[field] != value:
            left_out += [word for word in words[at:end] if word not in FILLERS]
        at = end
    scene = Scene(**{"thing": None, **facts})  # type: ignore[arg-type]
    return Reading(tuple(kept), scene, tuple(left_out))


def singular(phrase: tuple[str, ...]) -> tuple[str, ...]:
    """A phrase as the world has it, where people wrote it in the plural, or not in the plural."""
    if phrase in phrases():
        return phrase
    *start, last = phrase
    others = (last.removesuffix(end) + other for end, other in ENDINGS if last.endswith(end))
    return next((p for word in others if (p := (*start, word)) in phrases()), phrase)
