"""What a push publishes, and what stays with whoever made the student."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from dimo_cli.files.pictures import open_picture
from dimo_cli.files.png import save_png
from dimo_cli.files.writing import file_sha256
from dimo_cli.publishing.contents import carried, public_manifest, without_folders
from dimo_cli.students.folder import BUILTIN, read_manifest
from dimo_cli.teachers.registry import load_skeleton
from tests.publishing.conftest import NAME, pushed, refused

SECRET = "a canary nobody may see"


@pytest.fixture
def shapes(tmp_path):
    """A student folder of prompts that may be changed."""
    return shutil.copytree(BUILTIN["shapes"], tmp_path / "shapes")


def short_id(folder):
    return json.loads((folder / "dimo.json").read_text())["weights_sha256"][:12]


def preview(folder, conditions, **texts):
    """A preview of a folder's student, black, with these texts."""
    about = {"dimo.student": short_id(folder), "dimo.conditions": json.dumps(conditions), **texts}
    save_png(np.zeros((32, 32, 3), np.uint8), folder / "preview.png", about)


def sent_picture(hub, tmp_path):
    """What the Hub was given as a preview: its texts and its pixels."""
    path = tmp_path / "sent.png"
    path.write_bytes(hub.repos[NAME].files()["preview.png"])
    with open_picture(path) as picture:
        picture.load()
        return path.read_bytes(), dict(picture.info), np.asarray(picture)


def test_a_preview_of_private_prompts_is_drawn_anew_from_public_ones(hub, dimo, shapes, tmp_path):
    preview(shapes, [SECRET])
    result = dimo("push", shapes, NAME)
    assert result.exit_code == 0, result.stderr
    assert "shows prompts of your own" in result.stderr
    content, texts, pixels = sent_picture(hub, tmp_path)
    assert SECRET.encode() not in content
    assert set(json.loads(texts["dimo.conditions"])) <= set(
        load_skeleton("shapes").conditioner.dataset
    )
    assert pixels.any()
    assert texts["dimo.student"] == short_id(shapes)


def test_a_public_preview_keeps_its_picture_and_loses_what_else_it_carries(
    hub, dimo, own, tmp_path
):
    info = PngInfo()
    for key, text in {"dimo.student": short_id(own), "dimo.conditions": '["zero"]',
                      "dimo.note": SECRET, "Comment": SECRET}.items():  # fmt: skip
        info.add_itxt(key, text)
    exif = Image.Exif()
    exif[0x010E] = SECRET
    image = Image.fromarray(np.full((32, 32, 3), 9, np.uint8))
    image.save(own / "preview.png", pnginfo=info, exif=exif)
    with (own / "preview.png").open("ab") as file:
        file.write(SECRET.encode())
    pushed(dimo, own, NAME)
    content, texts, pixels = sent_picture(hub, tmp_path)
    assert SECRET.encode() not in content
    assert (pixels == 9).all()
    assert set(texts) == {"dimo.version", "dimo.conditions", "dimo.student"}
    assert json.loads(texts["dimo.conditions"]) == ["zero"]


def test_a_preview_of_a_class_that_is_none_is_drawn_anew(hub, dimo, own, tmp_path):
    preview(own, [SECRET])
    pushed(dimo, own, NAME)
    content, _, _ = sent_picture(hub, tmp_path)
    assert SECRET.encode() not in content


def test_a_dry_run_shows_what_each_file_carries(dimo, own, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    document = pushed(dimo, own, NAME, "--dry-run")
    carries = {file["path"]: file["carries"] for file in document["files"]}
    assert {"dimo.student", "dimo.conditions", "dimo.version"} == set(carries["preview.png"])
    assert {"format", "teacher", "training"} <= set(carries["dimo.json"])
    assert {"license", "library_name"} <= set(carries["README.md"])
    assert carries["model.safetensors"] == []
    table = dimo("push", own, NAME, "--dry-run").stdout
    assert "dimo.conditions, dimo.student, dimo.version" in table
    assert "no metadata" in table


def with_metadata(folder, **metadata):
    """Another hash of the same weights: their file says something."""
    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights, metadata)
    manifest = json.loads((folder / "dimo.json").read_text())
    manifest["weights_sha256"] = file_sha256(weights)
    (folder / "dimo.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "text", ["/home/somebody/data", "C:\\Users\\somebody\\x", "hf_abcdefghijkl", "x /root/y"]
)
def test_weights_that_name_a_person_or_a_secret_are_not_pushed(hub, dimo, own, text):
    with_metadata(own, note=text)
    sentence = refused(dimo, 2, own, NAME)
    assert "'note' in its metadata" in sentence
    assert text not in sentence
    assert hub.requests == []


def test_metadata_of_weights_is_shown_before_it_is_sent(dimo, own):
    with_metadata(own, format="pt")
    document = pushed(dimo, own, NAME, "--dry-run")
    weights = next(file for file in document["files"] if file["path"] == "model.safetensors")
    assert weights["carries"] == ["format"]


def test_a_manifest_names_no_folder_and_no_secret(hub, dimo, own):
    manifest = json.loads((own / "dimo.json").read_text())
    manifest["teacher"]["architecture"] = {
        "config": "/home/somebody/config.json",
        "from": "https://me:pass-word@host/x?sig=abc",
    }
    (own / "dimo.json").write_text(json.dumps(manifest))
    pushed(dimo, own, NAME)
    sent = hub.repos[NAME].files()["dimo.json"].decode()
    for secret in ("somebody", "pass-word", "abc"):
        assert secret not in sent.partition("weights_sha256")[0]
    assert json.loads(sent)["teacher"]["architecture"]["config"] == "config.json"


def test_a_manifest_without_anything_private_is_sent_as_it_is(own):
    path = own / "dimo.json"
    assert json.loads(public_manifest(read_manifest(path))) == json.loads(
        read_manifest(path).model_dump_json()
    )


def test_the_settings_of_adapters_are_written_anew(hub, dimo, adapters):
    path = adapters / "adapter_config.json"
    written = path.read_bytes()
    added = {"base_model_name_or_path": "/home/somebody/model", "note": "hf_abcdefghijkl"}
    path.write_text(json.dumps(json.loads(written) | added))
    pushed(dimo, adapters, NAME)
    assert hub.repos[NAME].files()["adapter_config.json"] == written


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/somebody/x.txt", "x.txt"),
        ("file=/home/somebody/x.txt", "file=~/x.txt"),
        ("see C:\\Users\\somebody\\x", "see ~\\x"),
        ("runs/first", "runs/first"),
        ("https://host/homes/a", "https://host/homes/a"),
    ],
)
def test_a_setting_names_nobody(value, shown):
    assert without_folders({"a": [value]}) == {"a": [shown]}


def test_what_a_damaged_file_carries_is_not_known(tmp_path):
    for name in ("a.png", "a.json", "a.safetensors", "a.md"):
        (tmp_path / name).write_text("x")
        assert carried(tmp_path / name) == ("cannot be read",)
