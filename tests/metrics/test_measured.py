"""Papers' numbers beside what was measured with dimo, which is read from files and never typed."""

import json

from dimo_cli.metrics.measured import HEAD, known_of, known_of_preset, read_measured
from dimo_cli.students.folder import BUILTIN
from docs.generator import measured as gathering
from docs.generator.measured import measured, of_evaluations


def cells(teacher, measured=None):
    return [dict(zip(HEAD, one.cells(), strict=True)) for one in known_of(teacher, measured)]


def test_what_was_measured_is_what_the_files_say_now():
    assert read_measured() == measured(), "run `python -m docs`"


def test_a_number_that_nobody_measured_is_not_run():
    rows = cells("maskgit", {})
    assert {row["measured with dimo"] for row in rows} == {"not run"}
    fid = next(row for row in rows if row["sampler"] == "Di[M]O student, 1 step")
    assert (fid["metric"], fid["paper"], fid["expected"]) == ("fid", "6.91", "6.91 ± 0.1")
    assert (fid["images"], fid["source"]) == ("50,000", "Soft-Di[M]O, Table 2")


def test_a_measurement_stands_beside_the_paper_only_where_it_counts_as_many_images():
    row = {"sampler": "16", "metric": "fid", "images": 50_000, "value": 6.62, "file": "f.json"}
    with_it = cells("maskgit", {"maskgit": [row]})
    assert len(with_it) == len(cells("maskgit", {}))
    assert with_it[0]["paper"] == "6.6"
    assert with_it[0]["measured with dimo"] == "6.62"
    assert with_it[0]["source"] == "Soft-Di[M]O, Table 2; `f.json`"
    other = cells("maskgit", {"maskgit": [row | {"images": 5000}]})
    assert other[0]["measured with dimo"] == "not run"
    assert (other[-1]["paper"], other[-1]["measured with dimo"]) == ("none", "6.62")


def test_digits_has_no_paper_and_a_mean_over_seeds(dimo):
    rows = {row["sampler"]: row for row in cells("digits") if row["metric"] == "fid"}
    student = rows["Di[M]O student, 1 step"]
    runs = json.loads((gathering.RESULTS / "digits.json").read_text())["runs"]
    mean = sum(run["student_fid"] for run in runs) / len(runs)
    assert student["measured with dimo"] == f"{mean:.4g} (mean of {len(runs)} seeds)"
    assert student["paper"] == "none"


def test_a_preset_has_no_number_of_another_presets_student():
    assert any(one.of_student for one in known_of_preset("digits", "digits"))
    assert not any(one.of_student for one in known_of_preset("digits-sdtt", "digits"))
    papers = known_of_preset("maskbit-gan", "maskbit-14bit")
    assert papers == known_of("maskbit-14bit")


def test_a_students_number_is_not_taken_for_its_teachers():
    built_in = [one for one in known_of("shapes") if one.about == "the built-in student"]
    assert built_in
    assert all(one.of_student for one in built_in)


def test_presets_show_has_the_table_as_comments_and_in_json(dimo, monkeypatch):
    counted = {"memory_bytes": 1, "flops_per_step": 1.0}  # which takes its time, and is no matter
    monkeypatch.setattr("dimo_cli.commands.presets.costs", lambda spec: counted)
    shown = dimo("presets", "show", "maskgit")
    assert shown.exit_code == 0
    head = [line for line in shown.stdout.splitlines() if line.startswith("# ")]
    assert any("paper" in line and "measured with dimo" in line for line in head)
    assert any("6.91" in line and "not run" in line for line in head)
    numbers = json.loads(dimo("presets", "show", "digits", "--json").stdout)["numbers"]
    assert {one["file"] for one in numbers} >= {"benchmarks/results/digits.json"}


def test_an_evaluation_of_a_student_that_is_no_more_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "ROOT", tmp_path)
    current = json.loads((BUILTIN["digits"] / "dimo.json").read_text())["weights_sha256"]

    def kept(sha256):
        subject = {"teacher": "digits@1", "method": "Di[M]O", "student_sha256": sha256}
        results = [{"metric": "precision_k3", "value": 0.5, "protocol": {"images": 100}}]
        document = {"subject": subject, "results": results}
        (tmp_path / "one.json").write_text(json.dumps(document))
        return list(of_evaluations(tmp_path))

    assert kept("0" * 64) == []
    ((teacher, row),) = kept(current)
    assert (teacher, row["metric"], row["about"]) == ("digits", "precision", "the built-in student")
