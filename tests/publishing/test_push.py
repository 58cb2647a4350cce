"""`dimo push` through the Hub's own client, to a Hub on this machine that also breaks on demand."""

import huggingface_hub.constants as client
import pytest
from safetensors import SafetensorError

from dimo_cli.files.writing import file_sha256
from dimo_cli.publishing import upload
from dimo_cli.publishing.upload import changed_files
from dimo_cli.students.folder import BUILTIN
from tests.helpers.fake_hub import TOKEN
from tests.helpers.fake_hub_uploads import READ_ONLY
from tests.publishing.conftest import FILES, NAME, pushed, refused

# What arrives


def test_a_pushed_student_draws_the_same_bytes_for_whoever_fetches_it(
    hub, dimo, tmp_path, tmp_path_factory, monkeypatch
):
    pushed(dimo, "digits", NAME)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("elsewhere")))
    monkeypatch.delenv("HF_TOKEN")
    flags = ("--class", "7", "--seed", "3", "-n", "4")
    for student, grid in ((BUILTIN["digits"], "local"), (NAME, "hub")):
        result = dimo("sample", "--student", student, *flags, "--grid", f"{grid}.png")
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "hub.png").read_bytes() == (tmp_path / "local.png").read_bytes()


def test_a_push_makes_the_repository_and_sends_the_whole_student(hub, dimo):
    document = pushed(dimo, "digits", NAME)
    files = hub.repos[NAME].files()
    assert set(files) == FILES | {".gitattributes"}
    assert set(document["uploaded"]) == FILES
    assert document["commit"] == hub.repos[NAME].branches["main"]
    weights = BUILTIN["digits"] / "model.safetensors"
    assert files["model.safetensors"] == weights.read_bytes()


def test_a_second_push_of_an_unchanged_student_sends_nothing(hub, dimo):
    pushed(dimo, "digits", NAME)
    before, writes = dict(hub.repos[NAME].commits), len(hub.writes())
    document = pushed(dimo, "digits", NAME)
    assert document["uploaded"] == []
    assert set(document["unchanged"]) == FILES
    assert hub.repos[NAME].commits == before
    assert len(hub.writes()) == writes
    assert "Nothing has changed" in dimo("push", "digits", NAME).stdout


def test_only_what_has_changed_is_sent(hub, dimo, run):
    pushed(dimo, run / "student", NAME)
    assert pushed(dimo, run, NAME)["uploaded"] == ["README.md"]


def test_large_files_go_in_parts_where_the_hub_wants_that(hub, dimo):
    hub.part_size = 100_000
    pushed(dimo, "digits", NAME)
    assert len(hub.parts) > 8
    content = hub.repos[NAME].files()["model.safetensors"]
    assert content == (BUILTIN["digits"] / "model.safetensors").read_bytes()


def test_the_folder_of_the_student_is_left_as_it_was(hub, dimo, own):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    pushed(dimo, own, NAME)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "private"), [([], False), (["--private"], True), (["--public"], False)]
)
def test_who_sees_a_new_repository_is_as_asked(hub, dimo, flags, private):
    pushed(dimo, "digits", NAME, *flags)
    assert hub.repos[NAME].private is private


def test_a_private_student_needs_a_login_to_be_sampled(hub, dimo, monkeypatch):
    pushed(dimo, "digits", NAME, "--private")
    assert dimo("sample", "--student", NAME, "-n", "1").exit_code == 0
    monkeypatch.setenv("HF_HOME", "empty")
    monkeypatch.delenv("HF_TOKEN")
    assert dimo("sample", "--student", NAME, "-n", "1").exit_code == 3


# Branches, tags, pull requests


def test_a_branch_is_made_and_main_stays_as_it_was(hub, dimo):
    pushed(dimo, "digits", NAME, "--branch", "trial")
    repo = hub.repos[NAME]
    assert set(repo.files("main")) == {".gitattributes"}
    assert set(repo.files("trial")) >= FILES
    assert dimo("sample", "--student", f"{NAME}@trial", "-n", "1").exit_code == 0


def test_a_tag_is_set_once_and_never_moved(hub, dimo, run):
    pushed(dimo, "digits", NAME, "--tag", "v1")
    commit = hub.repos[NAME].tags["v1"]
    pushed(dimo, "digits", NAME, "--tag", "v1")
    commits = len(hub.repos[NAME].commits)
    sentence = refused(dimo, 2, run, NAME, "--tag", "v1")
    assert "`v1`" in sentence
    assert "model.safetensors" in sentence
    assert len(hub.repos[NAME].commits) == commits
    assert hub.repos[NAME].tags == {"v1": commit}


def test_a_pull_request_is_opened_once_and_continued_after_that(hub, dimo, run):
    hub.create("other/model")
    first = pushed(dimo, run / "student", "other/model", "--create-pr")
    assert first["pull_request"].endswith("/other/model/discussions/1")
    again = pushed(dimo, run / "student", "other/model", "--create-pr")
    assert again["uploaded"] == []
    with_numbers = pushed(dimo, run, "other/model", "--create-pr")
    assert with_numbers["uploaded"] == ["README.md"]
    repo = hub.repos["other/model"]
    assert len(repo.titles) == 1
    assert set(repo.files("main")) == {".gitattributes"}
    assert set(repo.files("refs/pr/1")) >= FILES


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub, dimo):
    hub.create("other/model")
    hub.faults["commit/main"] = ["lose"]
    document = pushed(dimo, "digits", "other/model", "--create-pr")
    assert document["pull_request"].endswith("/discussions/1")
    assert len(hub.repos["other/model"].titles) == 1


def test_a_pull_request_needs_a_repository(hub, dimo):
    assert "without --create-pr" in refused(dimo, 3, "digits", NAME, "--create-pr")
    assert hub.repos == {}


# What breaks


def test_no_room_for_what_is_made_ready_is_said_before_anything_is_sent(
    hub, dimo, run, monkeypatch
):
    def full(*_args):
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr("dimo_cli.students.folder.save_file", full)
    assert "set TMPDIR" in refused(dimo, 3, f"{run}@last", NAME)
    assert hub.requests == []


@pytest.mark.parametrize("fault", ["drop", "503", "lose"])
@pytest.mark.parametrize(
    "place", ["repos/create", "preupload/main", "objects/batch", "WEIGHTS", "commit/main", "refs"]
)
def test_what_breaks_once_is_tried_again(hub, dimo, fault, place):
    weights = file_sha256(BUILTIN["digits"] / "model.safetensors")
    place = weights if place == "WEIGHTS" else place
    hub.faults[place] = [fault]
    document = pushed(dimo, "digits", NAME, "--tag", "v1")
    assert hub.faults[place] == []
    repo = hub.repos[NAME]
    assert set(repo.files("v1")) >= FILES
    assert len(repo.commits) == 2, "nothing is committed twice"
    assert document["commit"] == repo.tags["v1"]


def test_an_upload_that_was_given_up_goes_on_where_it_stopped(hub, dimo):
    hub.faults["commit/main"] = ["always drop"]
    sentence = refused(dimo, 3, "digits", NAME)
    assert "not sent twice" in sentence
    arrived = list(hub.received)
    assert len(arrived) == 2
    hub.faults.clear()
    pushed(dimo, "digits", NAME)
    assert hub.received == arrived, "the large files were sent again"


def test_a_large_file_that_never_gets_through_is_told_and_nothing_is_committed(hub, dimo):
    hub.faults[file_sha256(BUILTIN["digits"] / "model.safetensors")] = ["always drop"]
    assert "broke" in refused(dimo, 3, "digits", NAME)
    assert set(hub.repos[NAME].files()) == {".gitattributes"}


@pytest.mark.parametrize(
    ("place", "fault", "words"),
    [
        ("objects/batch", "403 Private repository storage limit reached", "no room"),
        ("commit/main", "413", "no room"),
        ("repos/create", "402 Payment required", "no room"),
        ("commit/main", "403 This branch is protected", "This branch is protected"),
        ("commit/main", "409 The branch has moved", "changed in the meantime"),
        ("revision/main", "429", "slow down"),
        ("commit/main", "always 500", "answers 500"),
        ("revision/main", "404", "does not find"),
    ],
)
def test_a_refusal_of_the_hub_is_a_sentence(hub, dimo, place, fault, words):
    hub.faults[place] = [fault]
    assert words in refused(dimo, 3, "digits", NAME)


def test_a_push_of_somebody_else_in_between_is_refused_and_not_mixed_with(hub, dimo, monkeypatch):
    pushed(dimo, "digits", NAME)
    theirs = dict.fromkeys(FILES, b"of another student")

    def while_they_push(*arguments):
        changed = changed_files(*arguments)
        repo = hub.repos[NAME]
        repo.branches["main"] = repo.commit(theirs)
        return changed

    monkeypatch.setattr(upload, "changed_files", while_they_push)
    assert "changed in the meantime" in refused(dimo, 3, "digits", NAME, "--hours", "3")
    assert hub.repos[NAME].files() == theirs


def test_a_full_account_is_told_in_the_words_of_the_hub(hub, dimo):
    hub.room = 100_000
    sentence = refused(dimo, 3, "digits", NAME)
    assert "no room" in sentence
    assert "storage quota is exceeded" in sentence
    assert set(hub.repos[NAME].files()) == {".gitattributes"}


def test_a_wrong_token_says_how_to_log_in_and_is_not_shown(hub, dimo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    sentence = refused(dimo, 3, "digits", NAME)
    assert "hf auth login" in sentence
    assert "hf_wrong" not in sentence


def test_no_token_says_how_to_log_in_before_anything_is_asked(hub, dimo, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused(dimo, 3, "digits", NAME)
    assert hub.requests == []


def test_a_token_that_only_reads_is_told_which_right_is_missing(hub, dimo, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    sentence = refused(dimo, 3, "digits", NAME)
    assert "write access to `maker`" in sentence
    assert READ_ONLY not in sentence


def test_a_name_of_somebody_else_is_refused(hub, dimo):
    assert "may not write" in refused(dimo, 3, "digits", "somebody/digits")


def test_a_token_that_the_hub_repeats_is_struck_out(hub, dimo):
    hub.faults["revision/main"] = [f"403 {TOKEN} may not do this"]
    assert "*** may not do this" in refused(dimo, 3, "digits", NAME)


def test_a_token_is_nowhere_in_what_is_published(hub, dimo, run):
    pushed(dimo, run, NAME)
    for content in hub.repos[NAME].files().values():
        assert TOKEN.encode() not in content


def test_a_hub_that_is_not_there_is_told(dimo, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "Cannot reach http://127.0.0.1:9" in refused(dimo, 3, "digits", NAME)


def test_an_offline_machine_is_told_at_once(dimo, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(dimo, 3, "digits", NAME)


def test_a_hub_without_xet_says_how_to_do_without(hub, dimo, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(client, "HF_HUB_DISABLE_XET", False)
    assert "HF_HUB_DISABLE_XET=1" in refused(dimo, 3, "digits", NAME)


# What is not overwritten


@pytest.mark.parametrize(("private", "flag"), [(True, "--public"), (False, "--private")])
def test_a_repository_that_others_see_differently_is_refused(hub, dimo, private, flag):
    hub.create(NAME, private)
    assert flag in refused(dimo, 2, "digits", NAME, flag)
    assert hub.writes() == []


@pytest.mark.parametrize("weights", ["model.safetensors", "adapter_model.safetensors"])
def test_another_model_is_not_overwritten(hub, dimo, weights):
    hub.create(NAME, files={weights: b"precious", "README.md": b"of it"})
    before = hub.repos[NAME].files()
    assert f"another model: its {weights}" in refused(dimo, 2, "digits", NAME)
    assert hub.repos[NAME].files() == before


def test_beside_another_model_there_is_room_in_a_branch(hub, dimo):
    hub.create(NAME, files={"model.safetensors": b"precious"})
    pushed(dimo, "digits", NAME, "--branch", "trial")
    assert hub.repos[NAME].files()["model.safetensors"] == b"precious"
    assert set(hub.repos[NAME].files("trial")) >= FILES


def test_a_student_of_another_kind_leaves_no_weights_behind(hub, dimo, adapters):
    hub.create(NAME, files={"dimo.json": b"{}", "model.safetensors": b"of before"})
    assert pushed(dimo, adapters, NAME)["removed"] == ["model.safetensors"]
    theirs = ["adapter_model.safetensors", "adapter_config.json"]
    assert pushed(dimo, "digits", NAME)["removed"] == theirs
    assert set(hub.repos[NAME].files()) == FILES | {".gitattributes"}


def test_other_files_of_the_repository_are_kept(hub, dimo):
    hub.create(NAME, files={"notes.txt": b"mine"})
    pushed(dimo, "digits", NAME)
    assert hub.repos[NAME].files()["notes.txt"] == b"mine"
