"""What `dimo push` checks before it sends anything, and the numbers it puts on the card."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from dimo_cli.files.writing import file_sha256
from dimo_cli.students.folder import BUILTIN
from tests.publishing.conftest import FILES, NAME, pushed, refused


def test_a_dry_run_shows_card_and_files_and_needs_no_hub(dimo, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = dimo("push", "digits", NAME, "--dry-run", "--branch", "trial", "--private")
    assert result.exit_code == 0, result.stderr
    for told in (*FILES, "license: cc-by-4.0", "## Limits", "trial, private; nothing was sent"):
        assert told in result.stdout


def test_a_dry_run_tells_a_machine_the_same(dimo):
    document = pushed(dimo, "digits", NAME, "--dry-run")
    assert {file["path"] for file in document["files"]} == FILES
    weights = next(f for f in document["files"] if f["path"] == "model.safetensors")
    assert weights["sha256"] == document["student"]
    assert document["card"].startswith("---\n")


def test_truncated_weights_are_not_pushed(hub, dimo, own):
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "does not match the hash" in refused(dimo, 3, own, NAME)
    assert hub.requests == []


def test_weights_that_are_not_finite_are_not_pushed(hub, dimo, own):
    weights = load_file(own / "model.safetensors")
    weights["to_logits.bias"][0] = float("nan")
    save_file(weights, own / "model.safetensors")
    manifest = json.loads((own / "dimo.json").read_text())
    manifest["weights_sha256"] = file_sha256(own / "model.safetensors")
    (own / "dimo.json").write_text(json.dumps(manifest))
    assert "not finite: `to_logits.bias`" in refused(dimo, 3, own, NAME)
    assert hub.requests == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_preview_of_another_student_or_none_is_drawn_anew(hub, dimo, own, run, kept):
    (own / "preview.png").unlink()
    if kept:
        shutil.copy(run / "student" / "preview.png", own)
    pushed(dimo, own, NAME)
    preview = hub.repos[NAME].files()["preview.png"]
    short = json.loads((own / "dimo.json").read_text())["weights_sha256"][:12]
    assert short.encode() in preview
    assert preview != (run / "student" / "preview.png").read_bytes()


def test_a_hub_id_is_no_student_to_push(dimo):
    assert "of this machine" in refused(dimo, 3, "Yuanzhi/DiMO", NAME)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--create-pr", "--branch", "x"], "exclude"),
        (["--create-pr", "--tag", "x"], "exclude"),
        (["--tag", "refs/heads/x"], "no name of a branch or tag"),
        (["--branch", "a b"], "no name of a branch or tag"),
        (["--branch", "a", "--tag", "a"], "different names"),
        (["--license-name", "x"], "--license-link"),
        (["--license-name", "x", "--license-link", "somewhere"], "--license-link"),
        (["--watts", "300"], "--grid-intensity"),
        (["--watts", "300", "--grid-intensity", "50"], "--hours"),
        (["--hardware", "1 x GPU"], "--hours"),
        (["--hours", "-1"], "--hours"),
        (["--license-name", "x", "--license-link", "https://x.org"], "Leave it out"),
        (["--metrics", "none.json"], "none.json"),
    ],
)
def test_options_that_make_no_sense_are_refused(hub, dimo, flags, words):
    result = dimo("push", "digits", NAME, *flags)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["digits", "a/b/c", "a/", "/b", "a b/c", "a/b--c", "a/" + "x" * 99]
)
def test_a_name_that_the_hub_does_not_take_is_refused(hub, dimo, name):
    assert "user/name" in refused(dimo, 2, "digits", name)


# Numbers


def evaluation(folder, **subject):
    """A file as `dimo eval ... --json` writes it, about the built-in student if not said."""
    weights = json.loads((BUILTIN["digits"] / "dimo.json").read_text())["weights_sha256"]
    about = {"target": "student", "student_sha256": weights, "seed": 20000, "steps": 1}
    protocol = {"images": 5000, "reference": "digits-train-1797", "reference_images": 1797}
    document = {
        "dimo": "0.1.0",
        "subject": {**about, **subject},
        "results": [{"metric": "fid5k", "value": 0.318, "protocol": protocol, "details": {}}],
        "notes": [],
        "cached": False,
    }
    path = folder / "result.json"
    path.write_text(json.dumps(document))
    return path


def test_numbers_of_an_evaluation_are_on_the_card_with_their_protocol(hub, dimo, tmp_path):
    pushed(dimo, "digits", NAME, "--metrics", evaluation(tmp_path))
    card = ModelCard(hub.repos[NAME].files()["README.md"].decode())
    (number,) = card.data.eval_results
    assert (number.metric_type, number.metric_value) == ("fid", 0.318)
    assert number.dataset_name == "digits-train-1797"
    assert "images 5000" in number.metric_name
    assert "sampler.seed 20000" in number.metric_name


def test_a_number_of_optimized_images_says_so_on_the_card(hub, dimo, tmp_path):
    tteo = {"budget": "4x2", "rewards": {"shapes_clip": 1.0}}
    pushed(dimo, "digits", NAME, "--metrics", evaluation(tmp_path, tteo=tteo))
    card = ModelCard(hub.repos[NAME].files()["README.md"].decode())
    (number,) = card.data.eval_results
    assert "sampler.tteo.budget 4x2" in number.metric_name
    assert "sampler.tteo.rewards.shapes_clip 1.0" in number.metric_name


def test_what_dimo_eval_writes_is_understood(hub, dimo, tmp_path):
    result = dimo("eval", "fid", "digits", "-n", "200", "--json")
    (tmp_path / "fid.json").write_text(result.stdout)
    document = pushed(dimo, "digits", NAME, "--metrics", "fid.json")
    ((title, value),) = document["metrics"].items()
    assert title.startswith("fid200 (")
    assert value == json.loads(result.stdout)["values"]["fid200"]


@pytest.mark.parametrize(
    ("subject", "words"),
    [({"student_sha256": "0" * 64}, "another|this one is"), ({"target": "teacher"}, "teacher")],
)
def test_numbers_of_anybody_else_are_refused(dimo, tmp_path, subject, words):
    sentence = refused(dimo, 2, "digits", NAME, "--metrics", evaluation(tmp_path, **subject))
    assert any(word in sentence for word in words.split("|"))


def test_the_closing_table_of_a_run_is_on_the_card(hub, dimo, run):
    pushed(dimo, run, NAME)
    text = hub.repos[NAME].files()["README.md"].decode()
    (number,) = ModelCard(text).data.eval_results
    summary = json.loads((run / "summary.json").read_text())
    assert number.metric_value == pytest.approx(summary["fid_student"], rel=1e-5)
    for sampler in ("teacher, 1 step", "teacher, 2 steps", "student, 1 step"):
        assert f"| {sampler} | fid100 |" in text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: json.dumps({**json.loads(s), "weights_sha256": "0" * 64}), "this one is"),
        (lambda s: s[:50], "damaged"),
        (lambda s: json.dumps({**json.loads(s), "table": [{}]}), "damaged"),
    ],
)
def test_a_summary_that_is_not_of_this_student_is_refused(dimo, run, tmp_path, damage, words):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "summary.json"
    path.write_text(damage(path.read_text()))
    assert words in refused(dimo, 2, copy, NAME)
