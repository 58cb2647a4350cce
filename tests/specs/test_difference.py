"""Two specs are told apart by the settings that differ, and by nothing else."""

import json

from dimo_cli.specs.difference import differences, spec_named


def test_a_preset_differs_from_a_file_in_what_the_file_changes(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: digits\ntrain: {steps: 7}\n")
    (found,) = differences(spec_named("digits"), spec_named(str(tmp_path / "mine.yaml")))
    assert (found.path, found.first, found.second) == ("train.steps", 1100, 7)


def test_what_only_a_refinement_has_is_absent_elsewhere():
    found = {one.path: one for one in differences(spec_named("digits"), spec_named("digits-gan"))}
    assert found["gan.enabled"].first == "-"
    assert found["gan.enabled"].second is True


def test_presets_diff_shows_a_run_beside_its_preset(dimo, finished_run):
    shown = dimo("presets", "diff", "digits", finished_run)
    assert shown.exit_code == 0, shown.stderr
    assert any(line.split() == ["train.steps", "1100", "6"] for line in shown.stdout.splitlines())
    document = json.loads(dimo("presets", "diff", "digits", finished_run, "--json").stdout)
    assert {"setting": "train.steps", "first": 1100, "second": 6} in document["differences"]


def test_a_spec_does_not_differ_from_itself(dimo):
    assert "have the same settings" in dimo("presets", "diff", "digits", "digits").stdout


def test_a_mistyped_preset_is_guessed(dimo):
    refused = dimo("presets", "diff", "digits", "maskgitt")
    assert refused.exit_code == 2
    assert "Did you mean `maskgit`?" in refused.stderr
