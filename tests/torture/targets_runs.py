"""What is fuzzed with what runs leave behind: reports, cards, results of other tools."""

import json
from pathlib import Path

import yaml
from hypothesis import strategies as st

from dimo_cli.metrics.geneval_folder import read_folder, read_results
from dimo_cli.metrics.geneval_requests import TAGS
from dimo_cli.publishing import measured
from dimo_cli.publishing.package import public_settings
from dimo_cli.reporting.page import write_report
from dimo_cli.run_folder.effort import effort_of
from dimo_cli.sampling.tteo import NUMBERS, read_outcome
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.resolve import preset_names, preset_path, resolve_spec
from tests.conftest import small_spec
from tests.helpers.pictures import pictures, png
from tests.torture.inputs import TEXT, broken, lying_json, text_of

PICTURE = png(pictures(1)[0][0])
SPEC = small_spec().model_dump(mode="json")
SHA256 = "a" * 64
ROW = {"metric": "fid", "value": 3.5, "accuracy": 0.9, "seconds_per_image": 0.1, "seed": 0,
       "images": 100, "reference": "digits",
       "sampler": {"network": f"student:{SHA256[:12]}", "steps": 1}}  # fmt: skip
TEACHER_ROW = {**ROW, "sampler": {"network": "teacher:digits", "steps": 4}}
DOCUMENTS = {
    "origins.json": {"train.steps": "flag --set train.steps", "loss": "preset digits, line 3"},
    "summary.json": {"weights_sha256": SHA256, "table": [TEACHER_ROW, ROW], "steps": 3},
    "student/dimo.json": {"weights_sha256": SHA256, "training": {"steps": 3}, "teacher": {}},
    "fid.json": {"results": [{"metric": "fid", "value": 1.5, "protocol": {"images": 5},
                              "details": {"std": 0.5}}],
                 "subject": {"target": "student", "student_sha256": SHA256}, "notes": []},
}  # fmt: skip
LINES = {
    "log.jsonl": [{"step": n, "loss": 0.5, "fid": 3.0, "gradient_norm": 1, "entropy": 2.0,
                   "top1": 0.5, "auxiliary_gap": 0.5, "divergence": 0.1} for n in (1, 2, 3)],
    "effort.jsonl": [{"first_step": 0, "last_step": 3, "seconds": 1.5, "hardware": "a CPU"}],
}  # fmt: skip
OUTCOME = {"prompt": "a circle", "start": 0, "trace": [[1.0, 2.0], [3.0, 4.0]],
           **dict.fromkeys(NUMBERS, 1.0)}  # fmt: skip


def damaged(document):
    """A document with lies in it, or with damage, or something else."""
    return st.one_of(
        lying_json(document).map(lambda tree: text_of(tree).encode()),
        broken(json.dumps(document).encode()),
        TEXT.map(lambda text: text.encode(errors="surrogatepass")),
        st.just(json.dumps(document).encode()),
    )


def lines_of(documents):
    """A file with a document in each line."""
    return st.lists(st.one_of([damaged(d) for d in documents]), max_size=4).map(b"\n".join)


def lay_out(data, folder):
    """A run folder with some of its files, each perhaps damaged."""
    contents = {
        "run.yaml": damaged(SPEC),
        "notes.txt": TEXT.map(lambda text: text.encode(errors="surrogatepass")),
        "samples/step-2.png": st.one_of(st.just(PICTURE), broken(PICTURE)),
        **{name: damaged(document) for name, document in DOCUMENTS.items()},
        **{name: lines_of(documents) for name, documents in LINES.items()},
    }
    for name, content in contents.items():
        if data.draw(st.integers(0, 3)):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data.draw(content))


def reports(data, folder):
    lay_out(data, folder)
    page = write_report(folder, folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")


def reports_of_tteo(data, folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "outcome.json").write_bytes(data.draw(damaged(OUTCOME)))
        (folder / name / "after.png").write_bytes(
            data.draw(st.one_of(st.just(PICTURE), broken(PICTURE)))
        )
        read_outcome(folder / name)
    page = write_report(folder, folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")


def cards(data, folder):
    """Everything that a card takes from a run."""
    lay_out(data, folder)
    match data.draw(st.sampled_from(["run", "evaluations", "effort", "settings"])):
        case "run":
            measured.of_run(folder, SHA256)
        case "evaluations":
            measured.of_evaluations([str(folder / "fid.json")], SHA256)
        case "effort":
            effort_of(folder)
        case "settings" if (folder / "run.yaml").exists():
            assert str(Path.home()) not in public_settings(folder / "run.yaml")


REQUEST = {"tag": TAGS[0], "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
VERDICT = {"filename": "new.png", "tag": TAGS[0], "correct": True, "metadata": json.dumps(REQUEST)}
VERDICTS = b"".join(
    json.dumps({**VERDICT, "filename": f"{tag}.png", "tag": tag,
                "metadata": json.dumps({**REQUEST, "tag": tag})}).encode() + b"\n"
    for tag in TAGS
)  # fmt: skip


def results_of_geneval(data, folder):
    """Folders and results of the benchmark's own tool."""
    if data.draw(st.booleans()):
        more = data.draw(st.one_of(st.just(b""), lines_of([VERDICT])))
        (folder / "results.jsonl").write_bytes(VERDICTS + more)
        read_results(folder / "results.jsonl")
        return
    names = st.sampled_from(["00000", "1", "٣", "²", "x", "00000 "])
    for name in data.draw(st.lists(names, unique=True, max_size=3)):
        place = folder / "images" / name / "samples"
        place.mkdir(parents=True)
        (place.parent / "metadata.jsonl").write_bytes(data.draw(damaged(REQUEST)))
        for image in data.draw(st.lists(st.sampled_from(["0000.png", "1.png", "².png"]))):
            (place / image).write_bytes(b"")
    read_folder(folder / "images")


def preset_files(data, folder):
    """A copy of a preset that was edited badly, and names that are none."""
    name = data.draw(st.one_of(st.sampled_from(preset_names()), TEXT))
    if data.draw(st.integers(0, 3)) == 0:
        resolve_spec(DistillSpec, preset=name, environment={})
        return
    sound = preset_path(name).read_bytes()
    tree = st.deferred(lambda: lying_json(yaml.safe_load(sound)).map(yaml.safe_dump))
    content = data.draw(st.one_of(broken(sound), tree.map(str.encode)))
    (folder / "mine.yaml").write_bytes(content)
    preset = data.draw(st.sampled_from([None, "digits", name]))
    resolve_spec(DistillSpec, preset=preset, file=folder / "mine.yaml", environment={})


TARGETS = {
    "reports": reports,
    "reports of tteo": reports_of_tteo,
    "cards": cards,
    "results of GenEval": results_of_geneval,
    "preset files": preset_files,
}
