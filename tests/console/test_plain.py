"""What is printed is text: nobody's name for a thing is an order to a terminal or to CI."""

import io
import json
import logging

import pytest
from rich.console import Group
from rich.panel import Panel
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from dimo_cli.console.live import LiveView
from dimo_cli.console.output import Output, console
from dimo_cli.console.plain import in_json, indented, one_line, plain, shown
from dimo_cli.console.progress import progress_bar
from dimo_cli.errors import MissingError
from dimo_cli.redacting import keeping_secrets
from tests.helpers.hostile import HOSTILE, MARKUP, assert_harmless, assert_one_message

ADDRESS = "https://me:pass-word@host.example/x?a=1&sig=abc123"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(view, terminal=False, monkeypatch=None):
    """What a console writes of a view."""
    stream = Terminal() if terminal else io.StringIO()
    if monkeypatch:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.delenv("NO_COLOR", raising=False)
    console(stream).print(view)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words: a::b [x] #1 ## Title", "plain words: a::b [x] #1 ## Title"),
        ("two\n\tlines", "two\n\tlines"),
        ("naïve 漢字 \u05d0 👩\u200d🚀", "naïve 漢字 \u05d0 👩\u200d🚀"),
        ("a\x1b]52;c;eA==\x07", "a\ufffd]52;c;eA==\ufffd"),
        ("a\rb\x9bc\u202ed\ud800", "a\ufffdb\ufffdc\ufffdd\ufffd"),
        ("::error::x\n \u3000::add-mask::y", ": :error::x\n \u3000: :add-mask::y"),
        ("a ##[error]b ##vso[c]", "a # #[error]b # #vso[c]"),
    ],
)
def test_only_what_is_obeyed_is_changed(text, expected):
    assert plain(text) == expected
    assert plain(expected) == expected


def test_further_lines_of_a_message_are_indented_once():
    assert indented("a\nb\n  - c") == "a\n  b\n  - c"


def test_a_row_of_a_table_is_one_line():
    assert one_line(" a\n\tb\x1b ") == "a b\ufffd"


def test_json_says_the_same_and_speaks_to_no_runner():
    document = {"a": HOSTILE.replace("\ud800", ""), "b": ["##[group]", "\\##[x]"]}
    text = in_json(json.dumps(document))
    assert json.loads(text) == document
    assert_harmless(text)


def table():
    rows = Table(HOSTILE, "b")
    rows.add_row(HOSTILE, Text(HOSTILE))
    return rows


VIEWS = {
    "table": table(),
    "text": Text(HOSTILE),
    "string": HOSTILE,
    "group": Group(Text(HOSTILE, style="bold"), HOSTILE, table()),
    "panel": Panel(HOSTILE),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_no_view_passes_on_an_order(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no word is wrapped
    text = printed(VIEWS[kind])
    assert_harmless(text)
    for words in ("[red]a[/red]", ":warning:"):
        assert words in text


def test_a_terminal_gets_the_colors_that_are_ours_alone(monkeypatch):
    text = printed(Text(HOSTILE, style="bold"), True, monkeypatch)
    assert "\x1b[1m" in text
    for order in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e", "\x1b[31m"):
        assert order not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_addresses_in_tables_open_no_door_even_where_they_are_wrapped(monkeypatch, terminal):
    table = Table("file", "from")
    table.add_row(ADDRESS, Text(ADDRESS + "&token=" + "0123456789abcdef" * 8))
    text = printed(table, terminal, monkeypatch)
    for secret in ("pass-word", "abc123", "0123456789"):
        assert secret not in text
    assert "***" in text


def test_messages_are_of_one_piece(capsys):
    out = Output()
    out.start()
    out.note(HOSTILE)
    out.hint(HOSTILE)
    out.error(MissingError(HOSTILE, HOSTILE))
    told = capsys.readouterr().err
    assert_one_message(told)
    assert told.count(MARKUP) == 4


def test_errors_for_machines_are_json_that_says_the_same(capsys):
    out = Output()
    out.start(as_json=True)
    out.error(MissingError(HOSTILE, "x"))
    text = capsys.readouterr().out
    assert json.loads(text)["error"] == HOSTILE
    assert_harmless(text)


def test_progress_and_panels_take_no_markup_from_names(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    view = LiveView(console(stream), f"dimo: {HOSTILE}")
    view.progress.add_task(HOSTILE, total=1, speed="")
    view.note(HOSTILE)
    view.console.print(view.render())
    assert MARKUP.split(" ")[0] in stream.getvalue()
    for order in ("\x1b]", "\x1b[2J", "\x07", "\n::", "\u202e", "\nError: forged"):
        assert order not in stream.getvalue()
    for bar in (progress_bar(Output()), view.progress):
        assert not [c for c in bar.columns if isinstance(c, TextColumn) and c.markup]


def test_logs_and_last_words_are_text_as_well(caplog, capsys):
    with keeping_secrets(shown):
        logging.getLogger("hub").warning("the Hub says %s", HOSTILE)
    assert_harmless(caplog.records[-1].getMessage())
    with pytest.raises(SystemExit), keeping_secrets(shown):
        raise RuntimeError(HOSTILE)
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert_harmless(told)
