"""Prompts of a dataset of the Hub: one column, streamed once into a text file of one commit."""

import pytest

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.lines import lines_of
from dimo_cli.hub import prompts as module
from dimo_cli.hub.prompts import prompt_file
from tests.helpers.fake_hub import COMMIT, as_pointer
from tests.helpers.tables import DATASET, as_lines, publish

FOXES = {"prompt": ["a red fox", "two boats"], "id": [1, 2], "tags": [["a"], ["b"]]}
LINES = as_lines([dict(zip(FOXES, row, strict=True)) for row in zip(*FOXES.values(), strict=True)])


def prompts_of(text, say=lambda line: None):
    return lines_of(prompt_file(text, say)[0].read_text(encoding="utf-8"))


@pytest.fixture
def hub(fake_hub):
    return publish(fake_hub, {"data/train-00000-of-00001.jsonl": LINES, "README.md": b"#"})


@pytest.mark.parametrize("content", [FOXES, LINES], ids=["parquet", "jsonl"])
def test_a_column_is_read_and_named_by_its_commit(fake_hub, content):
    kind = "jsonl" if content is LINES else "parquet"
    publish(fake_hub, {f"data/train-00000-of-00001.{kind}": content})
    path, name = prompt_file("hub:owner/words:prompt")
    assert lines_of(path.read_text()) == ["a red fox", "two boats"]
    assert name == f"hub:owner/words:prompt@{COMMIT}"


def test_the_column_need_not_be_named_where_only_one_can_be_meant(hub):
    assert prompt_file("hub:owner/words")[1] == f"hub:owner/words:prompt@{COMMIT}"


def test_all_files_of_a_part_are_read_in_their_order(fake_hub):
    for n in range(3):
        rows = [{"text": f"a {n}"}, {"text": f"b {n}"}]
        publish(fake_hub, {f"data/train-{n:05d}-of-00003.jsonl": as_lines(rows)})
    assert prompts_of("hub:owner/words:text") == ["a 0", "b 0", "a 1", "b 1", "a 2", "b 2"]
    one = "hub:owner/words/data/train-00001-of-00003.jsonl:text"
    assert prompts_of(one) == ["a 1", "b 1"]


def test_json_lines_need_no_other_package(fake_hub, monkeypatch):
    monkeypatch.setattr("dimo_cli.files.tables.find_spec", lambda name: None)
    rows = [{"text": "a fox"}, {"text": None}, {"text": "a\u2028boat"}, {"other": 1}]
    publish(fake_hub, {"prompts.jsonl": as_lines(rows)})
    assert prompts_of("hub:owner/words:text") == ["a fox", "a boat"]


def test_parquet_without_its_package_is_a_sentence_with_the_command(fake_hub, monkeypatch):
    publish(fake_hub, {"train.parquet": FOXES})
    monkeypatch.setattr("dimo_cli.files.tables.find_spec", lambda name: None)
    with pytest.raises(MissingError, match="package `pyarrow` is missing") as caught:
        prompt_file("hub:owner/words")
    assert "pip install 'dimo-cli[datasets]'" in caught.value.hint
    assert fake_hub.downloads() == [f"api/{DATASET}"]


def test_every_prompt_is_one_clean_line_and_what_is_none_is_counted(fake_hub):
    odd = ["  two\nlines\tand \x1b[2Jorders ", "", None, "  ", "x" * 10_001, "\u202eturned", "ok"]
    publish(fake_hub, {"train.jsonl": as_lines({"text": text} for text in odd)})
    said = []
    assert prompts_of("hub:owner/words:text", said.append) == [
        "two lines and [2Jorders", "turned", "ok",
    ]  # fmt: skip
    assert "3 prompts" in said[-1]
    assert "4 blank, too long or unreadable ones were left out" in said[-1]


def test_it_is_downloaded_and_read_once_and_works_offline_from_then_on(hub, monkeypatch):
    prompt_file("hub:owner/words")
    before = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prompts_of("hub:owner/words:prompt") == ["a red fox", "two boats"]
    assert len(hub.requests) == before


def test_a_commit_needs_no_network_the_second_time(hub):
    name = prompt_file("hub:owner/words")[1]
    before = len(hub.requests)
    assert prompts_of(name) == ["a red fox", "two boats"]
    assert len(hub.requests) == before


def test_offline_without_a_first_time_is_a_sentence(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="never looked up here") as caught:
        prompt_file("hub:owner/words")
    assert "online" in caught.value.hint


def test_a_hub_that_does_not_answer_is_a_sentence_about_the_dataset(hub, monkeypatch):
    monkeypatch.setattr("dimo_cli.hub.datasets.answers", lambda url: False)
    with pytest.raises(MissingError, match=r"Cannot reach .* for the dataset `owner/words`"):
        prompt_file("hub:owner/words")


def test_what_is_pinned_stays_though_the_dataset_changes(hub):
    name = prompt_file("hub:owner/words:prompt")[1]
    changed = {"data/train-00000-of-00001.jsonl": as_lines([{"prompt": "another"}])}
    commit = hub.push(DATASET, changed)
    assert prompt_file("hub:owner/words:prompt")[1] == f"hub:owner/words:prompt@{commit}"
    assert prompts_of("hub:owner/words:prompt") == ["another"]
    assert prompts_of(name) == ["a red fox", "two boats"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hub:words", "form is hub:OWNER/NAME"),
        ("hub:owner/words/../other", "form is hub:OWNER/NAME"),
        ("hub:owner/nothing", "no dataset `owner/nothing`"),
        ("hub:owner/words@v2", "no revision `v2`"),
        ("hub:owner/words:caption", r"no column `caption`: it has `prompt` \(texts\), `id`"),
        ("hub:owner/words:id", r"`id` of `owner/words` holds no texts"),
        ("hub:owner/words:tags", r"`tags` of `owner/words` holds no texts"),
        ("hub:owner/words/test", r"no table `test`"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(hub, text, told):
    with pytest.raises((SpecError, MissingError), match=told):
        prompt_file(text)


def test_of_several_parts_one_must_be_named(fake_hub):
    names = ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl")
    publish(fake_hub, {name: as_lines([{"text": name}]) for name in names})
    with pytest.raises(SpecError, match="several parts: `data/test`, `data/train`") as caught:
        prompt_file("hub:owner/words:text")
    assert "`hub:owner/words/data/test:text`" in caught.value.hint
    assert prompts_of("hub:owner/words/data/test:text") == [names[1]]
    assert prompts_of("hub:owner/words/data/*:text") == [names[1], names[0]]


def test_of_several_columns_one_must_be_named(fake_hub):
    publish(fake_hub, {"train.jsonl": as_lines([{"en": "a", "de": "b"}])})
    with pytest.raises(SpecError, match="several columns of texts: `en`, `de`") as caught:
        prompt_file("hub:owner/words")
    assert f"`hub:owner/words:en@{COMMIT}`" in caught.value.hint


def test_a_dataset_of_other_files_names_the_copy_that_the_hub_keeps(fake_hub):
    publish(fake_hub, {"words.csv": b"a"})
    with pytest.raises(SpecError, match=r"no \.parquet or \.jsonl files") as caught:
        prompt_file("hub:owner/words")
    assert "@refs/convert/parquet" in caught.value.hint


def test_a_gated_dataset_says_where_to_ask(hub):
    hub.gated.add(DATASET)
    with pytest.raises(MissingError, match="is gated") as caught:
        prompt_file("hub:owner/words")
    assert "/datasets/owner/words" in caught.value.hint


def test_a_column_without_any_prompt_is_refused_and_leaves_nothing(fake_hub):
    publish(fake_hub, {"train.jsonl": as_lines([{"text": " "}])})
    with pytest.raises(SpecError, match="holds no prompts"):
        prompt_file("hub:owner/words:text")


def test_there_is_an_end_to_what_is_kept(fake_hub, monkeypatch):
    monkeypatch.setattr(module, "MOST_PROMPTS", 10)
    publish(fake_hub, {"train.jsonl": as_lines([{"text": "seven"}] * 3)})
    with pytest.raises(SpecError, match="more than"):
        prompt_file("hub:owner/words:text")


def test_a_mirror_with_other_bytes_than_were_listed_is_refused(hub):
    wrong = {"rfilename": "train.parquet", "size": 11, "lfs": as_pointer("0" * 64, 11)}
    hub.add(DATASET, "train.parquet", b"of a mirror")
    hub.descriptions[DATASET] = {"siblings": [wrong]}
    with pytest.raises(MissingError, match=r"not the file that .* listed"):
        prompt_file("hub:owner/words")


def test_names_that_lead_elsewhere_are_no_files_of_a_dataset(hub):
    names = ("../x.parquet", "/etc/x.parquet", "a//b.parquet", "a\x1b.parquet")
    siblings = [{"rfilename": name, "size": 1} for name in names]
    hub.descriptions[DATASET] = {"siblings": siblings}
    with pytest.raises(SpecError, match=r"no \.parquet or \.jsonl files"):
        prompt_file("hub:owner/words")


@pytest.mark.parametrize("answer", [{"sha": None}, {"sha": "x" * 40}, {"siblings": [{"size": 1}]}])
def test_an_answer_of_another_kind_is_a_sentence(hub, answer):
    hub.descriptions[DATASET] = answer
    with pytest.raises(MissingError):
        prompt_file("hub:owner/words")


def test_a_hub_that_fails_is_a_sentence(hub):
    hub.faults[f"api/{DATASET}"] = ["always 503"]
    with pytest.raises(MissingError, match="503"):
        prompt_file("hub:owner/words")
