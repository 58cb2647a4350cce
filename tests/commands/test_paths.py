"""Paths of a command line, wherever a shell has left `~` in them."""

from pathlib import Path


def test_a_home_folder_is_meant_behind_an_equals_sign_as_well(dimo, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert dimo("sample", "--class", "3", "-n", 1, "--grid=~/g.png", "--out=~/all").exit_code == 0
    assert dimo("presets", "cp", "digits", "~/mine.yaml").exit_code == 0
    assert dimo("eval", "fid", "digits", "-n", 4, "--save-images=~/kept").exit_code == 0
    written = {path.name for path in home.iterdir()} - {".cache"}
    assert written == {"all", "g.png", "kept", "mine.yaml"}
    assert not Path("~").exists()
