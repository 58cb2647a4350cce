"""The words of the program are explained once, and wherever people meet them."""

from dimo_cli.specs.glossary import GLOSSARY


def test_a_word_is_explained_in_the_terminal(dimo):
    told = dimo("spec", "words", "auxiliary")
    assert told.exit_code == 0
    assert "tells the student where to go" in " ".join(told.stdout.split())
    assert "temperature" in dimo("spec", "words").stdout


def test_an_unknown_word_is_refused_with_the_nearest(dimo):
    told = dimo("spec", "words", "auxilary")
    assert told.exit_code == 2
    assert "auxiliary" in told.stderr


def test_every_word_is_on_the_page_of_words_and_in_reports(finished_run):
    from dimo_cli.reporting.page import render
    from tests.docs.shown import text_of

    page, report = text_of("docs/glossary.md"), render(finished_run)
    for word in GLOSSARY:
        assert f"| {word} |" in page
        assert f"<dt>{word}</dt>" in report
