"""Prompt sets: read whole and in order, from a file or from the Hub; anything else is refused."""

import json
from collections import Counter

import pytest

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.hub.published import HubFile
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.prompts import (
    CATEGORIES,
    GENEVAL_COUNTS,
    PROMPT_SETS,
    STYLES,
    drawn_by_world,
    load_prompts,
    read_request,
)

STORE = HubStore()


@pytest.fixture(scope="module")
def captions():
    return [f"caption {n}" for n in range(30_000)]


@pytest.fixture(scope="module")
def mjhq():
    return {
        f"id{n:05d}": {"category": CATEGORIES[n % 10], "prompt": f"picture {n}"}
        for n in range(30_000)
    }


def geneval_rows():
    """553 rows of the right tags, each as the benchmark writes it."""
    rows = []
    for tag, count in GENEVAL_COUNTS.items():
        for n in range(count):
            include = [{"class": "dog", "count": 1}]
            if tag == "position":
                include.append({"class": "cat", "count": 1, "position": ["left of", 0]})
            if tag in ("colors", "color_attr"):
                include[0]["color"] = "red"
            row = {"tag": tag, "include": include, "prompt": f"{tag} {n}"}
            if tag == "counting":
                row["exclude"] = [{"class": "dog", "count": 2}]
            rows.append(row)
    return rows


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_jsonl(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_hps(folder, **changed):
    folder.mkdir(exist_ok=True)
    for style in STYLES:
        prompts = [f"{style} {n}" for n in range(800)]
        write(folder / f"{style}.json", changed.get(style.replace("-", "_"), json.dumps(prompts)))
    return folder


def refused(name, path, match):
    with pytest.raises(SpecError, match=match) as caught:
        load_prompts(name, STORE, path)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 2


def test_coco_captions_are_in_the_order_of_the_file(tmp_path, captions):
    path = write(tmp_path / "captions.txt", "\n".join(captions))
    prompts = load_prompts("coco-30k", STORE, path)
    assert prompts.num_images == 30_000
    assert prompts.prompts_of(7, 2) == ("caption 7", "caption 8")
    assert prompts.file_stem(7) == "00007"
    assert prompts.tags == ()


def test_line_ends_and_marks_of_other_systems_change_nothing(tmp_path, captions):
    plain = load_prompts("coco-30k", STORE, write(tmp_path / "a", "\n".join(captions)))
    other = write(tmp_path / "b", b"\xef\xbb\xbf" + "\r\n".join([*captions, ""]).encode())
    assert load_prompts("coco-30k", STORE, other).sha256 == plain.sha256


def test_only_real_line_ends_part_captions(tmp_path, captions):
    odd = ["one\u2028caption\x0bhere", *captions[1:]]
    path = write(tmp_path / "captions.txt", "\n".join(odd))
    assert load_prompts("coco-30k", STORE, path).prompts[0] == odd[0]


def test_another_caption_is_another_hash(tmp_path, captions):
    hashes = set()
    for first in ("a", "b"):
        path = write(tmp_path / "captions.txt", "\n".join([first, *captions[1:]]))
        hashes.add(load_prompts("coco-30k", STORE, path).sha256)
    assert len(hashes) == 2


def test_mjhq_images_are_called_by_category_and_id(tmp_path, mjhq):
    prompts = load_prompts("mjhq-30k", STORE, write(tmp_path / "m.json", json.dumps(mjhq)))
    assert prompts.prompts[11] == "picture 11"
    assert prompts.file_stem(11) == "art/id00011"
    assert Counter(prompts.tags) == dict.fromkeys(CATEGORIES, 3000)


@pytest.mark.parametrize("inner", ["", "benchmark"])
def test_hps_has_four_styles_of_800(tmp_path, inner):
    write_hps(tmp_path / inner)
    prompts = load_prompts("hpsv2", STORE, tmp_path)
    assert Counter(prompts.tags) == dict.fromkeys(STYLES, 800)
    assert prompts.prompts[801] == "concept-art 1"
    assert prompts.file_stem(801) == "concept-art/00001"


def test_geneval_has_553_prompts_and_four_images_each(tmp_path):
    path = write_jsonl(tmp_path / "evaluation_metadata.jsonl", geneval_rows())
    prompts = load_prompts("geneval", STORE, path)
    assert (len(prompts.prompts), prompts.num_images) == (553, 2212)
    assert Counter(prompts.tags) == GENEVAL_COUNTS
    assert prompts.file_stem(9) == "00002/samples/0001"
    assert prompts.prompt_number(2211) == 552
    position = prompts.requests[80 + 99 + 80 + 94]
    assert position.include[1].position == ("left of", 0)


@pytest.mark.parametrize("world", ["shapes", "emoji"])
def test_a_world_draws_the_same_prompts_every_time(world):
    prompts = load_prompts(world, STORE)
    assert prompts == drawn_by_world(world)
    assert prompts.name == world
    assert len(set(prompts.tags)) == 6
    assert len(prompts.requests) == len(prompts.prompts) == prompts.num_images


def publish(hub, mjhq):
    for style in STYLES:
        content = json.dumps([f"{style} {n}" for n in range(800)]).encode()
        hub.add("datasets/zhwang/HPDv2", f"benchmark/{style}.json", content)
    hub.add("datasets/playgroundai/MJHQ-30K", "meta_data.json", json.dumps(mjhq).encode())


def test_hps_and_mjhq_are_pulled_from_the_hub_once(fake_hub, tmp_path, mjhq):
    publish(fake_hub, mjhq)
    for name in ("hpsv2", "mjhq-30k"):
        first = load_prompts(name, HubStore())
        assert load_prompts(name, HubStore()) == first
    assert len(fake_hub.downloads()) == 5
    assert "datasets/zhwang/HPDv2/benchmark/anime.json" in fake_hub.downloads()
    assert load_prompts("hpsv2", STORE, write_hps(tmp_path)) == load_prompts("hpsv2", HubStore())


def test_prompts_are_found_in_a_local_folder(tmp_path):
    write_hps(tmp_path / "benchmark")
    assert load_prompts("hpsv2", HubStore(local_dir=tmp_path)).num_images == 3200


def test_a_cached_dataset_serves_offline(fake_hub, mjhq, monkeypatch):
    publish(fake_hub, mjhq)
    first = load_prompts("hpsv2", HubStore())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_prompts("hpsv2", HubStore()) == first


def test_a_model_of_the_same_name_is_no_dataset(fake_hub):
    fake_hub.add("owner/both", "a.json", b"{}")
    file = HubFile("owner/both", "a.json")
    assert HubStore().config(file) == {}
    with pytest.raises(MissingError, match="no dataset `owner/both`"):
        HubStore().config(HubFile("owner/both", "a.json", repo_type="dataset"))


def test_a_gated_dataset_says_where_to_accept(fake_hub, mjhq):
    publish(fake_hub, mjhq)
    fake_hub.gated.add("datasets/zhwang/HPDv2")
    with pytest.raises(MissingError, match="is gated") as caught:
        load_prompts("hpsv2", HubStore())
    assert "/datasets/zhwang/HPDv2" in caught.value.hint


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(SpecError, match="not a known prompt set") as caught:
        load_prompts("hpsv3", STORE)
    assert "`hpsv2`" in caught.value.hint
    assert all(name in caught.value.hint for name in PROMPT_SETS)


@pytest.mark.parametrize(
    ("name", "file"),
    [("coco-30k", "captions_coco14_test.txt"), ("geneval", "evaluation_metadata.jsonl")],
)
def test_sets_that_are_not_on_the_hub_say_where_to_get_them(name, file):
    with pytest.raises(MissingError, match="not on the Hub") as caught:
        load_prompts(name, STORE)
    assert file in caught.value.hint
    assert "github.com" in caught.value.hint


@pytest.mark.parametrize("name", ["coco-30k", "mjhq-30k", "geneval", "hpsv2"])
def test_a_path_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(MissingError, match=r"There is no (file|folder) .*nowhere"):
        load_prompts(name, STORE, tmp_path / "nowhere")


def test_a_missing_style_is_named(tmp_path):
    write_hps(tmp_path)
    (tmp_path / "photo.json").unlink()
    with pytest.raises(MissingError, match=r"photo\.json"):
        load_prompts("hpsv2", STORE, tmp_path)


@pytest.mark.parametrize("world", ["shapes", "emoji"])
def test_a_world_reads_no_file(world, tmp_path):
    refused(world, tmp_path / "x", "draws its own prompts")


def test_captions_that_are_too_few_or_too_many_are_refused(tmp_path, captions):
    for count, rows in ((29_999, captions[1:]), (30_001, ["more", *captions])):
        path = write(tmp_path / "captions.txt", "\n".join(rows))
        refused("coco-30k", path, rf"has {count:,} captions, not 30,000")


def test_an_empty_file_is_refused(tmp_path):
    refused("coco-30k", write(tmp_path / "captions.txt", ""), "line 1: blank")


def test_a_blank_caption_is_refused_with_its_line(tmp_path, captions):
    path = write(tmp_path / "captions.txt", "\n".join([*captions[:41], "  ", *captions[42:]]))
    refused("coco-30k", path, "line 42: blank")


def test_bytes_that_are_no_utf8_are_refused_with_their_line(tmp_path, captions):
    content = "\n".join(captions[:4]).encode() + b"\ncaf\xe9\n"
    refused("coco-30k", write(tmp_path / "captions.txt", content), r"line 5: not UTF-8 \(byte 0xe9")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1, 2", "line 1: not JSON"),
        ('{\n"a": 1,\n}', "line 3: not JSON"),
        ("[]", "is a list, not an object"),
        ("{}", "has 0 prompts of `animals`, not 3,000"),
        ('{"a": "art"}', "entry `a`: it must be an object"),
        ('{"a": {"prompt": "x"}}', "entry `a`: it must be an object with `category`"),
        ('{"a": {"category": "arts", "prompt": "x"}}', "entry `a`: 'arts' is not a category"),
        ('{"a": {"category": "art", "prompt": " "}}', "entry `a`: the prompt is ' '"),
        ('{"a": {"category": ["art"], "prompt": "x"}}', r"\['art'\] is not a category"),
    ],
)
def test_a_wrong_mjhq_file_is_refused(tmp_path, content, match):
    refused("mjhq-30k", write(tmp_path / "meta_data.json", content), match)


def test_a_category_that_is_not_whole_is_refused(tmp_path, mjhq):
    rows = {**mjhq, "id00000": {"category": "art", "prompt": "x"}}
    path = write(tmp_path / "meta_data.json", json.dumps(rows))
    refused("mjhq-30k", path, "2,999 prompts of `animals`, not 3,000")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"a": 1}', r"photo\.json` is a dict, not a list"),
        (json.dumps(["x"] * 799), r"photo\.json` has 799 prompts, not 800"),
        (json.dumps(["x"] * 799 + [3]), r"photo\.json`, entry 799: the prompt is 3"),
        ("nonsense", r"photo\.json`, line 1: not JSON"),
    ],
)
def test_a_wrong_hps_file_is_refused(tmp_path, content, match):
    refused("hpsv2", write_hps(tmp_path, photo=content), match)


def test_a_geneval_file_that_is_not_whole_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", geneval_rows()[:-1])
    refused("geneval", path, "has 99 prompts of `color_attr`, not 100")


DOG = {"class": "dog", "count": 1}
BAD_REQUESTS = {
    "unknown tag": ({"tag": "colours"}, "`tag`"),
    "unknown key": ({"extra": 1}, "`extra`"),
    "no include": ({"include": []}, "`include`"),
    "unknown class": ({"include": [{**DOG, "class": "computer mice"}]}, "mean `computer mouse`"),
    "unknown color": ({"include": [{**DOG, "color": "gray"}]}, "`include.0.color`"),
    "count of nothing": ({"include": [{**DOG, "count": 0}]}, "`include.0.count`"),
    "count of a truth": ({"include": [{**DOG, "count": True}]}, "`include.0.count`"),
    "unknown side": ({"include": [DOG, {**DOG, "position": ["behind", 0]}]}, "include.1.position"),
    "itself": ({"include": [{**DOG, "position": ["above", 0]}]}, "entry 0 names no earlier"),
    "wrong word": ({"include": [{**DOG, "colour": "red"}]}, "`include.0.colour`"),
    "no prompt": ({"prompt": ""}, "`prompt`"),
}


@pytest.mark.parametrize("problem", BAD_REQUESTS)
def test_a_wrong_geneval_line_is_refused_with_its_number(tmp_path, problem):
    change, match = BAD_REQUESTS[problem]
    rows = geneval_rows()
    rows[299] = {**rows[0], **change}
    refused("geneval", write_jsonl(tmp_path / "m.jsonl", rows), f"line 300: .*{match}")


def test_a_geneval_line_that_is_no_json_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", geneval_rows())
    path.write_text(path.read_text().replace('{"tag"', '{tag"', 1))
    refused("geneval", path, "line 1: Invalid JSON")


def test_a_request_keeps_what_the_benchmark_wrote():
    row = geneval_rows()[80 + 99]
    request = read_request("here", json.dumps(row))
    assert request.model_dump(mode="json", by_alias=True, exclude_unset=True) == row
