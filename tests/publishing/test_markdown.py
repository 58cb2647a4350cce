"""What a stranger wrote into a manifest is a value on a card: no markup, no link, no header."""

import re
from dataclasses import replace

import pytest
import yaml

from dimo_cli.cards.card import student_card
from dimo_cli.cards.facts import Measured, Row
from dimo_cli.cards.licenses import license_of, license_to_publish
from dimo_cli.cards.markdown import block, code, link, words
from dimo_cli.run_folder.effort import Effort
from dimo_cli.specs.push import Footprint
from dimo_cli.students.folder import BUILTIN, describe_student, load_student
from tests.helpers.hostile import HOSTILE, assert_visible

ATTACK = (
    "x | y [click](https://evil.example) ![p](https://evil.example/p.png) <script>alert(1)</script>"
    "\n\n# Owned\n---\nlicense: mit\n---\n```\n</details>\n<img src=x onerror=alert(1)> `c` ``d`` "
    + HOSTILE
)


@pytest.fixture(scope="module")
def facts():
    """A card's facts, every text of which is of a stranger."""
    found = describe_student(load_student(BUILTIN["digits"]))
    manifest = found.manifest
    teacher = manifest.teacher.model_copy(
        update={"name": ATTACK, "family": ATTACK, "revision": ATTACK, "license": ATTACK}
    )
    training = manifest.training.model_copy(update={"method": ATTACK})
    number = Measured(ATTACK, 1.5, {ATTACK: ATTACK, "reference": ATTACK, "sampler.top_k": ATTACK})
    return replace(
        found,
        manifest=manifest.model_copy(
            update={"teacher": teacher, "training": training, "dimo_version": ATTACK}
        ),
        license=license_of(ATTACK),
        measured=(number,),
        rows=(Row(ATTACK, ATTACK, 2.5),),
        spec_yaml=yaml.safe_dump({"note": ATTACK}, allow_unicode=True),
        effort=Effort(2.0, ATTACK),
        footprint=Footprint(watts=100, grid_intensity=100),
    )


def without_code(text):
    """What a card says outside of its code, where everything is shown letter by letter."""
    text = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def test_nothing_of_a_stranger_is_markup_on_a_card(facts):
    card = student_card(facts)
    assert_visible(card)
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    data = yaml.safe_load(head)
    assert data["library_name"] == "dimo"
    assert data["license"] == "other"
    outside = without_code(body)
    for words_ in ("evil.example", "<script", "<img", "onerror", "# Owned", "click"):
        assert words_ not in outside, outside
    assert outside.count("<details>") == outside.count("</details>") == 1
    assert len(re.findall("^# ", outside, re.MULTILINE)) == 1


def test_tables_of_a_card_keep_their_columns(facts):
    body = student_card(facts).partition("\n---\n")[2]
    for line in body.splitlines():
        if line.startswith("| ") and not line.startswith("| | |"):
            cells = line.strip("|").split("|")
            assert len(cells) in (2, 3), line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Soft-Di[M]O with GAN", "Soft-Di[M]O with GAN"),
        ("precision_k3", "precision_k3"),
        ("1 x AMD EPYC 7B13 @ 2.2 GHz (64)", "1 x AMD EPYC 7B13 @ 2.2 GHz (64)"),
        ("[a](b)", "`[a](b)`"),
        ("https://x.org", "`https://x.org`"),
        ("me@x.org", "`me@x.org`"),
        ("_a_ *b*", "`_a_ *b*`"),
        ("<b>", "`<b>`"),
        ("a\nb", "a b"),
    ],
)
def test_words_stay_as_they_are_and_all_else_is_code(text, shown):
    assert words(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b", "`a/b`"), ("", "`  `")],
)
def test_code_ends_where_it_should(text, shown):
    assert code(text) == shown


def test_a_block_of_code_is_longer_fenced_than_what_it_holds():
    assert block("a\n```\nb", "yaml") == "````yaml\na\n```\nb\n````"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://x.org/a?b=c", "[n](https://x.org/a?b=c)"),
        ("https://x.org/a) [c](d", "[n](https://x.org/a%29%20%5Bc%5D%28d)"),
        ("javascript:alert(1)", "n"),
        ("data:text/html,x", "n"),
        ("//x.org", "n"),
    ],
)
def test_links_lead_to_the_web_or_nowhere(address, shown):
    assert link("n", address) == shown


def test_the_name_of_a_license_is_no_markup():
    found = license_to_publish("t", "Own-1.0", "[a](javascript:b)", "https://x.org/(t)")
    assert found.sentence == (
        "The terms are those of the teacher: [`[a](javascript:b)`](https://x.org/%28t%29)."
    )
