"""Texts that try to be more than text, and what must be left of them: characters to look at."""

import re
import unicodedata

CLIPBOARD, CLEAR = "\x1b]52;c;b3duZWQ=\x07", "\x1b[2J\x9b31m"
ORDERS = "\n::error::owned\n   ::add-mask::x ##[error]y ##vso[task.setvariable]z"
MARKUP = "[red]a[/red] [link=https://evil.example]b[/link] :warning:"
TURNED = "\u202etxt.exe\u2066\u200b\ud800"
HOSTILE = f"a{CLIPBOARD}{CLEAR}{ORDERS} {MARKUP} {TURNED}\r\nError: forged"

ORDER = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)


def assert_visible(text):
    """Nothing that a terminal obeys, or that turns the direction of writing."""
    bad = {
        c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    }
    bad |= set(text) & set(
        "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068"
    )
    assert not bad, (bad, text)


def assert_harmless(text):
    """Nothing that a terminal or a runner of CI obeys; all else is a matter of taste."""
    assert_visible(text)
    assert not ORDER.search(text), text


def assert_one_message(text):
    """No line of somebody else's text stands where a line of dimo's own would begin."""
    assert_harmless(text)
    forged = [line for line in text.splitlines() if line.startswith("Error: forged")]
    assert forged == [], text
