"""Emoji characters as words: people type the picture itself."""

from __future__ import annotations

import unicodedata
from functools import cache

# What Unicode calls unlike the world: mostly the oldest, whose names say how they were printed.
CALLED = """
🐫 camel, 🐪 camel, 🕊 dove, 🪼 jellyfish, 👽 alien, 🌽 corn, 🥝 kiwi, 🎒 backpack,
🏀 basketball, 🗡 dagger, 🔪 dagger, 🥁 drum, 🎣 fishing rod, 👓 glasses, 💻 laptop, 💡 light bulb,
🚂 locomotive, 🔍 magnifying glass, 🔎 magnifying glass, 📣 megaphone, 🏍 motorcycle, 🖌 paintbrush,
🎱 billiard ball, 👟 sneaker, ✂ scissors, 🛒 shopping cart, ⭐ star, 🕶 sunglasses, ☎ telephone,
🎾 tennis ball, 🌪 tornado, 🎁 present, ❤ heart, ♥ heart, ♻ recycling symbol, ❓ question mark,
❗ exclamation mark, 🍕 pizza, ⌛ hourglass, ⚡ lightning bolt, 🍆 eggplant, 🧊 ice, 🌕 full moon,
⚠ warning sign, 🧶 yarn, 🧼 soap, 🔒 lock, ☀ sun, 🌞 sun, ☃ snowman, ⛄ snowman, ✈ airplane
"""


JOINED = {"🐻\u200d❄": "polar bear", "🐈\u200d⬛": "black cat"}  # of several characters


@cache
def called() -> dict[str, str]:
    """The names of those that the world knows by others than Unicode's."""
    pairs = (pair.split(maxsplit=1) for pair in CALLED.split(","))
    return {symbol: name.strip() for symbol, name in pairs}


def name_of(symbol: str) -> str:
    """What people call an emoji, or just that it is one; empty for any other mark."""
    if name := called().get(symbol):
        return name
    if not is_symbol(symbol):
        return ""
    return unicodedata.name(symbol, symbol).lower().removesuffix(" face")


def is_symbol(mark: str) -> bool:
    """Whether a mark is a picture of something, or newer than this Python knows marks."""
    return unicodedata.category(mark) in ("So", "Cn")
