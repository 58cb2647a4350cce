"""`dimo eval` as CI uses it: one pass, protocols, gates, caches, references, bad input."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch.distributed as dist
import yaml
from PIL import Image

from dimo_cli.commands.metrics import temperatures
from dimo_cli.errors import SpecError
from dimo_cli.evaluation import cache as kept
from dimo_cli.evaluation import readers
from dimo_cli.evaluation.evaluate import check_counts, evaluate, share
from dimo_cli.evaluation.gates import Gate
from dimo_cli.evaluation.result import Evaluation
from dimo_cli.evaluation.subjects import Opened, subject_of
from dimo_cli.evaluation.tables import write_github
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics import prompts
from dimo_cli.metrics.expected import expected_value
from dimo_cli.metrics.geneval_requests import TAGS
from dimo_cli.metrics.prompts import PromptSet
from dimo_cli.metrics.protocol import Result
from dimo_cli.specs.evaluate import EvalSpec
from tests.helpers.hostile import HOSTILE, assert_visible

QUICK = ("-n", "256", "--json")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own: nothing is known from earlier tests."""
    folder = tmp_path_factory.mktemp("hf")
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def read(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_all_numbers_of_a_teacher_come_with_their_protocol(dimo):
    document = read(dimo("eval", "all", "digits", *QUICK))
    names = ["fid256", "kid256", "precision_k3", "recall_k3", "density_k3", "coverage_k3", "is256"]
    assert list(document["values"]) == names
    fid = document["results"][0]["protocol"]
    assert fid["reference"] == "digits-train-1797"
    assert len(fid["reference_sha256"]) == len(fid["network"]["sha256"]) == 64
    for result in document["results"]:
        protocol = result["protocol"]
        assert protocol["network"] == fid["network"], result["metric"]
        compared = not result["metric"].startswith("is")
        assert (protocol.get("reference_sha256") == fid["reference_sha256"]) == compared
    assert document["subject"]["seed"] == 20_000
    assert len(document["subject"]["student_sha256"]) == 64
    assert document["subject"]["method"].startswith("Di[M]O")  # what published numbers go by


def test_an_unchanged_student_is_not_measured_twice_and_another_seed_is(dimo):
    first = read(dimo("eval", "fid", "digits", *QUICK))
    second = read(dimo("eval", "fid", "digits", *QUICK))
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["values"] == second["values"]
    assert not read(dimo("eval", "fid", "digits", *QUICK, "--no-cache"))["cached"]
    other = read(dimo("eval", "fid", "digits", *QUICK, "--seed", "1"))
    assert not other["cached"]
    assert other["values"] != first["values"]


def test_saved_images_and_images_in_memory_are_measured_alike(dimo):
    memory = read(dimo("eval", "fid", "digits", *QUICK, "--save-images", "images"))
    build = ("eval", "ref", "build", "images", "--features", "digits", "--json")
    built = read(dimo(*build, "--out", "ref.npz"))
    assert built["images"] == 256
    same = read(dimo("eval", "fid", "digits", *QUICK, "--ref", "ref.npz"))
    assert abs(same["values"]["fid256"]) < 1e-6 < memory["values"]["fid256"]
    folder = read(dimo("eval", "all", "images", "--features", "digits", "--ref", "ref.npz",
                       "--json"))  # fmt: skip
    assert abs(folder["values"]["fid256"]) < 1e-6
    assert folder["values"]["precision_k3"] == folder["values"]["recall_k3"]
    same = read(dimo("eval", "kid", "images", "--features", "digits", "--ref", "images",
                        "--json"))  # fmt: skip
    assert same["values"]["kid256"] < 0, "an unbiased distance of a set to itself is negative"


def test_images_of_different_prompts_are_kept_apart(tmp_path):
    asked = {"metrics": ("clip", "geneval"), "samples": 12, "save_images": str(tmp_path)}
    evaluate(EvalSpec(target="shapes", **asked), HubStore())
    folders = {folder.name: sorted(folder.iterdir()) for folder in tmp_path.iterdir()}
    assert {name: len(files) for name, files in folders.items()} == {"clip": 12, "geneval": 12}
    captions, tasks = (folders[name][0].read_bytes() for name in ("clip", "geneval"))
    assert captions != tasks


def test_gates_decide_the_exit_code_and_tell_github(dimo, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    call = ("eval", "all", "digits", *QUICK, "--github", "--max", "fid=100")
    good = dimo(*call, "--min", "precision=0.1")
    assert good.exit_code == 0
    assert "::notice" in good.stderr
    bad = dimo(*call, "--min", "is=500")
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["passed"] is False
    assert "::error" in bad.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert "| fid256 |" in summary
    assert "**failed**" in summary


def test_a_summary_for_github_has_no_markup_but_its_own(tmp_path, monkeypatch):
    """A student's name, a file's and a metric's may be of a stranger."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    attack = f"x | [a](https://me:pass-word@evil.example) <img src=x> \n# Owned `y` {HOSTILE}"
    found = Evaluation([Result(attack, 1.0, {}, {})], {"name": attack, attack: {"b": "c"}})
    (line,) = write_github(found, [Gate(attack, 1.0, 0.5, is_maximum=True)])
    summary = (tmp_path / "summary.md").read_text()
    assert_visible(summary + line)
    assert line.startswith("::error title=dimo eval::Gate failed: x")
    assert "pass-word" not in summary
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", summary)
    assert "evil" not in outside
    assert "Owned" not in outside
    assert [row.count("|") for row in outside.splitlines() if row.startswith("|")] == [4, 4, 4]


def test_what_a_folder_of_references_holds_decides_whether_to_measure_again(dimo, tmp_path):
    dimo("eval", "fid", "digits", "-n", "64", "--save-images", "real")
    call = ("eval", "fid", "digits", *QUICK, "--ref", "real")
    first = read(dimo(*call))
    assert read(dimo(*call))["cached"]
    saving = ("eval", "fid", "digits", "-n", "64", "--seed", "7", "--save-images", "real")
    assert "`real` is not empty" in dimo(*saving).stderr
    shutil.rmtree(tmp_path / "real")
    dimo(*saving)
    again = read(dimo(*call))
    assert not again["cached"]
    assert again["values"] != first["values"]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(dimo, tmp_path):
    call = ("eval", "all", "digits", "-n", "600", "--json", "--no-cache")
    alone = read(dimo(*call))
    launch = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    told = subprocess.run(
        [*launch, "-m", "dimo_cli", *call], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    together = json.loads(told)  # one document: the second process is silent
    assert together["values"] == pytest.approx(alone["values"], rel=1e-8)
    protocols = [[result["protocol"] for result in d["results"]] for d in (alone, together)]
    assert protocols[0] == protocols[1]


@pytest.mark.parametrize(
    ("images", "batch", "ranks", "shares"),
    [
        (5000, 256, 8, [512, 768, 512, 768, 512, 768, 512, 648]),
        (600, 256, 2, [256, 344]),
        (200, 256, 2, [0, 200]),  # one batch cannot be parted without other images
    ],
)
def test_batches_are_shared_evenly(monkeypatch, images, batch, ranks, shares):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    ends = []
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        ends.append(share(images, batch))
    assert [stop - start for start, stop in ends] == shares
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]


@pytest.fixture
def benchmark_file(tmp_path, monkeypatch):
    """GenEval's metadata in small: one prompt of each task, in words that `shapes` knows."""
    monkeypatch.setattr(prompts, "GENEVAL_COUNTS", dict.fromkeys(TAGS, 1))
    ask = {"include": [{"class": "dog", "count": 1}], "prompt": "a red circle"}
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps({"tag": tag, **ask}) + "\n" for tag in TAGS))
    return path


def test_geneval_images_go_out_in_the_original_layout_and_results_come_back(
    dimo, tmp_path, benchmark_file
):
    out = read(dimo("eval", "geneval-export", "shapes", "images", "--json",
                    "--metadata", str(benchmark_file)))  # fmt: skip
    assert out["images"] == len(list((tmp_path / "images").glob("0000?/samples/000?.png"))) == 24
    again = dimo("eval", "geneval-export", "shapes", "images", "--metadata", str(benchmark_file))
    assert (again.exit_code, "not empty" in again.stderr) == (2, True)
    classes = dimo("eval", "geneval-export", "digits", "new", "--metadata", str(benchmark_file))
    assert (classes.exit_code, "takes classes" in classes.stderr) == (2, True)
    assert not (tmp_path / "new").exists()

    rows = [json.loads(line) for line in benchmark_file.read_text().splitlines()]
    verdicts = [
        {
            "filename": f"images/{number:05d}/samples/0000.png",
            "tag": row["tag"],
            "correct": number < 3,
            "metadata": json.dumps(row),
        }
        for number, row in enumerate(rows)
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(v) for v in verdicts))
    found = read(dimo("eval", "geneval-import", "results.jsonl", "--json"))
    assert found["values"]["geneval"] == pytest.approx(0.5)


def test_grids_in_the_original_layout_are_none_of_its_images(tmp_path):
    """The original generator writes one beside the images of each prompt."""
    for number, tag in enumerate(TAGS):
        samples = tmp_path / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        row = {"tag": tag, "include": [{"class": "dog", "count": 1}], "prompt": f"a {number}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(row))
        Image.new("RGB", (8, 8)).save(samples / "0000.png")
        Image.new("RGB", (16, 8)).save(samples.parent / "grid.png")
    opened = Opened("images on disk", True, path=tmp_path)
    subject = subject_of(opened, EvalSpec(target=str(tmp_path)), None, HubStore())
    assert len(subject.images) == len(TAGS)
    (batch,) = subject.images.batches(10)
    assert batch.images.shape == (len(TAGS), 3, 8, 8)


def test_fidelity_falls_as_soft_embeddings_melt_and_knows_what_the_tokenizer_loses(dimo, tmp_path):
    dimo("eval", "fid", "shapes", "-n", "16", "--save-images", "real")
    call = ("eval", "fidelity", "shapes", "-n", "16", "--images", "real", "--json")
    rows = read(dimo(*call, "--plot", "curve.png"))["fidelity"]
    errors = {row["temperature"]: row["soft_vs_sampled"] for row in rows}
    assert errors[4.0] > errors[1.0] > 0
    assert all(row["tokenizer"] > 0 for row in rows)
    assert (tmp_path / "curve.png").is_file()
    for arguments, told in (
        (("digits", "--softness", "0"), "positive numbers"),
        (("digits", "--prompt", "a"), "takes classes"),
    ):
        refused = dimo("eval", "fidelity", *arguments)
        assert (refused.exit_code, told in refused.stderr) == (2, True)


def test_only_what_was_measured_alike_is_compared(dimo, tmp_path):
    for name, arguments in {
        "student": QUICK,
        "teacher": (*QUICK, "--teacher", "--steps", "2"),
        "fewer": ("-n", "200", "--json"),
    }.items():
        text = dimo("eval", "all", "digits", *arguments).stdout
        (tmp_path / f"{name}.json").write_text(text)
    document = read(dimo("eval", "--json", "--compare", "student.json", "teacher.json"))
    row = document["metrics"][0]
    assert row["difference"] == pytest.approx(row["second"] - row["first"])
    refused = dimo("eval", "--compare", "student.json", "fewer.json")
    assert refused.exit_code == 2
    assert "images is 256 and 200" in refused.stderr


def test_a_crop_is_part_of_the_protocol(dimo, tmp_path):
    for number in range(4):
        picture(tmp_path / f"few/{number}.png", size=(8, 8))
    call = ("eval", "fid", "few", "--ref", "few", "--features", "digits", "--json")
    cropped = read(dimo(*call, "--crop", "8"))
    crop = "center crop to the shorter side, then PIL Lanczos (COCO-30K), 8x8"
    assert cropped["subject"]["crop"] == cropped["results"][0]["protocol"]["crop"] == crop
    for name, document in (("cropped", cropped), ("plain", read(dimo(*call)))):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    refused = dimo("eval", "--compare", "plain.json", "cropped.json")
    assert (refused.exit_code, "crop is not said and center" in refused.stderr) == (2, True)


def test_a_sweep_finds_the_best_temperature_and_draws_the_curve(dimo, tmp_path):
    call = ("eval", "fid", "digits", *QUICK, "--sweep", "temperature=1,3", "--plot", "curve.png")
    document = read(dimo(*call))
    values = {row["temperature"]: row["values"]["fid256"] for row in document["curve"]}
    assert values[1.0] < values[3.0]
    assert document["best"]["fid256"] == {"value": values[1.0], "temperature": 1.0}
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (720, 440)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5..2", (0.5, 1.0, 1.5, 2.0)),
        ("1..4", (1.0, 2.0, 3.0, 4.0)),
        ("0.5..2.5", (0.5, 1.5, 2.5)),
        ("0.1..0.4", (0.1, 0.2, 0.3, 0.4)),
        ("0.5,1,2", (0.5, 1.0, 2.0)),
        ("2..2", (2.0,)),
    ],
)
def test_a_range_of_temperatures_is_evenly_spaced_and_has_both_ends(text, values):
    assert temperatures(f"temperature={text}") == pytest.approx(values)


def test_the_best_temperature_of_a_sweep_is_named_and_marked(dimo):
    shown = dimo("eval", "fid", "digits", "-n", "200", "--sweep", "temperature=1,9").stdout
    assert re.search(r"^ 1 +[\d.]+ \(best\) *$", shown, re.MULTILINE)
    assert re.search(r"^Best fid200: [\d.]+ at temperature 1\.$", shown, re.MULTILINE)


def test_fewer_images_of_a_benchmark_are_of_all_its_tasks(dimo):
    document = read(dimo("eval", "geneval", "shapes", "-n", "60", "--json"))
    overall, *tasks = document["results"]
    assert overall["protocol"]["images"] == 60
    assert [task["details"]["images"] for task in tasks] == [10] * 6


def test_a_benchmark_of_four_images_a_prompt_keeps_as_many_where_that_is_even():
    tags = [tag for tag in TAGS for _ in range(3)]
    keys = [str(number) for number in range(18)]
    whole = PromptSet("geneval", tuple(keys), tuple(tags), tuple(keys), tuple(keys), 4)
    assert whole.of_all_tasks(None) is whole.of_all_tasks(72) is whole
    for images, each in ((24, 4), (48, 4), (6, 1), (14, 1), (31, 4), (71, 4)):
        part = whole.of_all_tasks(images)
        assert part.images_per_prompt == each
        assert 0 <= part.num_images - images < each  # the last prompt may have fewer
        assert set(part.tags) == set(TAGS)
        assert list(part.prompts) == sorted(part.prompts, key=int)
    with pytest.raises(SpecError, match="6 tasks"):
        whole.of_all_tasks(5)


def counted_as(names, prompts, count):
    """What is said of so many images of a prompt set."""
    check_counts(names, SimpleNamespace(prompts=prompts, images=range(count)))


def test_too_few_images_of_a_benchmark_are_refused_before_any_is_drawn():
    rows = tuple(str(number) for number in range(8))
    styles = PromptSet("hpsv2", rows)
    counted_as(["hps"], styles, 8)
    counted_as(["clip"], styles, 5)
    with pytest.raises(SpecError, match="8 prompts, not 5 images"):
        counted_as(["hps"], styles, 5)
    tasks = PromptSet("geneval", rows, tuple("aabbccdd"), rows, rows)
    counted_as(["geneval"], tasks, 7)
    counted_as(["fid"], tasks, 2)
    with pytest.raises(SpecError, match="no image of the task `d`"):
        counted_as(["geneval"], tasks, 6)


def test_what_is_to_be_known_of_a_reference_is_said_of_fdd_too(monkeypatch):
    reference = SimpleNamespace(warnings=("few images",))
    monkeypatch.setattr(readers, "load_network", lambda *_: SimpleNamespace(dimensions=4))
    monkeypatch.setattr(readers, "find_reference", lambda *_: reference)
    subject = SimpleNamespace(images=range(2), device="cpu", domain="images")
    _, notes = readers.build_readers(["fdd"], subject, EvalSpec(target="x"), HubStore(), print)
    assert notes == ["few images"]


def test_shapes_are_measured_on_their_captions_and_on_the_six_tasks(dimo):
    document = read(dimo("eval", "geneval", "shapes", "--json"))
    overall, *tasks = document["values"].values()
    assert overall == pytest.approx(sum(tasks) / 6)
    assert document["results"][0]["protocol"]["prompt_set"] == "shapes"
    both = read(dimo("eval", "fid", "shapes", *QUICK))
    assert both["results"][0]["protocol"]["prompts"] == "captions of shapes"


def test_the_published_number_of_a_preset_is_known():
    network = {"name": "inception-2015-12-05", "resize": "legacy_tensorflow"}
    result = Result("fid50k", 6.65, {"images": 50_000, "network": network})
    teacher = expected_value(result, {"teacher": "maskgit@x", "steps": 16})
    assert teacher is not None
    assert (teacher.value, teacher.compare(6.65)) == (6.60, "6.6, +0.050 (within 0.1)")
    assert expected_value(Result("fid5k", 9, {"images": 5000}), {"teacher": "maskgit@x",
                                                                 "steps": 16}) is None  # fmt: skip
    assert expected_value(Result("is50k", 3, {"images": 50_000}), {"teacher": "digits@1"}) is None


def picture(path, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


def test_what_cannot_be_measured_is_refused_with_what_to_do(dimo, tmp_path):
    picture(tmp_path / "one/a.png")
    for number in range(3):
        picture(tmp_path / f"few/{number}.png")
        picture(tmp_path / f"clear/{number}.png", mode="RGBA")
        picture(tmp_path / f"mixed/{number}.png", size=(8, 8 + number))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"no picture")
    (tmp_path / "broken/b.png").write_bytes(b"no picture")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    np.savez(tmp_path / "small.npz", mu=np.zeros(5), sigma=np.eye(5))
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "blank.txt").write_text("a\n\nb\n")
    (tmp_path / "mine.txt").write_text("a\n")
    digits = ("--features", "digits")
    mistakes = [
        (("fid", "nowhere"), 3, "does not exist"),
        (("fid", "empty"), 2, "no images"),
        (("fid", "one", *digits), 2, "at least 2"),
        (("fid", "broken", *digits), 2, "a.png"),
        (("is", "clear", *digits), 2, "transparen"),
        (("fid", "mixed", *digits), 2, "sizes"),
        (("fid", "few", *digits), 3, "--ref"),
        (("fid", "few", "-n", "9", *digits), 2, "9 were asked for"),
        (("fid", "few", "--teacher", *digits), 2, "no teacher"),
        (("fid", "digits", "--ref", "nowhere.npz"), 3, "no reference file"),
        (("fid", "digits", "--ref", "bad.npz", "-n", "50"), 2, "bad.npz"),
        (("fid", "digits", "--ref", "other.npz", "-n", "50"), 2, "other.npz"),
        (("fid", "digits", "--ref", "small.npz", "-n", "50"), 2, "5"),
        (("kid", "digits", "--ref", "empty", "-n", "50"), 2, "no images"),
        (("fid", "digits", "--features", "resnet"), 2, "inception"),
        (("fid", "digits", "--resize", "best"), 2, "legacy_tensorflow"),
        (("fid", "digits", "--features", "dinov2", "-n", "50"), 2, "of its own network"),
        (("is", "digits", "--inception", "no.pth", "--features", "inception"), 3, "no.pth"),
        (("clip", "digits", "-n", "50"), 2, "prompts"),
        (("geneval", "digits", "-n", "50"), 2, "prompts"),
        (("clip", "few"), 2, "prompts"),
        (("fid", "digits", "--prompts", "shapes"), 2, "takes classes"),
        (("fid", "shapes", "--prompts", "blank.txt"), 2, "line 2"),
        (("fid", "shapes", "--prompts", "nowhere.txt"), 3, "nowhere.txt"),
        (("fid", "shapes", "--prompts", "coco-30k"), 3, "coco-30k"),
        (("fid", "shapes", "--prompts", "shapes", "-n", "9999"), 2, "300"),
        (("geneval", "shapes", "-n", "5"), 2, "at least 6"),
        (("geneval", "shapes", "--prompts", "mine.txt"), 2, "nothing would read it"),
        (("fid", "digits", "--resize", "clean", "-n", "50"), 2, "about Inception"),
        (("fid", "digits", "--crop", "8", "-n", "50"), 2, "images on disk"),
        (("fid", "digits", "--max", "kid=1"), 2, "not measured"),
        (("all", "digits", "--max", "clip=1"), 2, "no number `clip`"),
        (("fid", "digits", "--max", "fid50k=1", "-n", "50"), 2, "it is `fid50` here"),
        (("all", "digits", "--max", "1"), 2, "which number"),
        (("pr", "digits", "--min", "0.5"), 2, "which number"),
        (("fid", "digits", "--min", "fid=x"), 2, "NAME=NUMBER"),
        (("fid", "digits", "--k", "0"), 2, "--k"),
        (("fid", "digits", "--sweep", "guidance=1..3"), 2, "--sweep"),
        (("fid", "digits", "--sweep", "temperature=9..1"), 2, "--sweep"),
        (("fid", "digits", "--sweep", "temperature=1,2", "--max", "3"), 2, "no gates"),
        (("fid", "digits", "--sweep", "temperature=1,2", "--temperature", "1"), 2, "exclude"),
        (("--compare", "bad.json", "bad.json"), 2, "not a result"),
        (("--compare", "nowhere.json", "bad.json"), 3, "nowhere.json"),
        (("ref", "build", "empty", "--out", "r.npz"), 2, "no images"),
        (("ref", "build", "few", "--out", "r.txt"), 2, ".npz"),
        (("ref", "build", "few", "--out", "r.npz", "--features", "resnet"), 2, "resnet"),
        (("ref", "build", "few", "--out", "r.npz", "--crop", "8", "--recipe", "best"), 2, "best"),
        (("ref", "build", "few", "--out", "r.npz", "--crop", "0"), 2, "1 or more"),
        (("ref", "build", "few", "--out", "r.npz", "--recipe", "adm"), 2, "there is no crop"),
        (("ref", "build", "few", "--out", "r.npz", *digits, "--resize", "clean"), 2, "Inception"),
        (("ref", "build", "few", "--out", "r.npz", *digits, "--inception", "x"), 2, "Inception"),
    ]  # fmt: skip
    wrong = []
    for arguments, code, words in mistakes:
        result = dimo("eval", *arguments)
        said = " ".join(result.stderr.split())
        if result.exit_code != code or words not in said or "Traceback" in said:
            wrong.append((arguments, result.exit_code, said or repr(result.exception)))
    assert not wrong
    assert not list(tmp_path.glob("r.*")), "nothing is half-written"


def test_the_workflow_of_the_examples_passes_on_the_student_that_ships(dimo):
    text = (Path(__file__).parents[2] / "examples/ci/dimo-eval.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["fid"]["steps"]
    (line,) = [step["run"] for step in steps if step.get("run", "").startswith("dimo ")]
    call, _, file = line.partition(" > ")
    assert file == steps[-1]["with"]["path"]
    result = dimo(*shlex.split(call)[1:])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["passed"]


def test_a_table_has_no_empty_columns_and_fid_of_few_images_says_its_bias(dimo):
    result = dimo("eval", "fid", "digits", "-n", 256)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split("\n")[0].split() == ["metric", "value"]
    assert "FID of 256 images is too high by about" in result.stdout
    assert "same number" in result.stdout


def test_a_quiet_evaluation_is_one_line_with_its_protocol(dimo):
    result = dimo("eval", "fid", "digits", "-n", 256, "-q")
    (line,) = result.stdout.splitlines()
    assert line.startswith("fid256 ")
    assert "reference digits-train-1797" in line


def test_a_failed_gate_is_said_once(dimo):
    result = dimo("eval", "fid", "digits", "-n", 256, "--max", "0.001")
    assert result.exit_code == 1
    assert (result.stdout + result.stderr).count("Gate failed") == 1


@pytest.mark.parametrize(
    ("metric", "has", "lacks"),
    [
        ("fid", "--ref", "--k"),
        ("is", "--features", "--ref"),
        ("pr", "--k", "--nothing"),
        ("geneval", "--prompts", "--resize"),
    ],
)
def test_a_help_page_has_the_options_of_its_metric_alone(dimo, metric, has, lacks):
    page = dimo("eval", metric, "--help").stdout
    words = re.findall(r"--[\w-]+", page)
    assert has in words
    assert lacks not in words


def test_numbers_of_other_weights_that_ship_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    (tmp_path / "digits.safetensors").write_bytes(b"before")
    (tmp_path / "shapes_text.safetensors").write_bytes(b"another teacher's")
    monkeypatch.setattr(kept, "builtin_path", lambda name: str(tmp_path / name))
    before = kept.shipped_weights("digits")
    (tmp_path / "shapes_text.safetensors").write_bytes(b"changed")
    assert kept.shipped_weights("digits") == before
    (tmp_path / "digits.safetensors").write_bytes(b"after")
    assert kept.shipped_weights("digits") != before
    assert kept.shipped_weights("maskgit") is None
