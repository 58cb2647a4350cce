"""A student that is not finite is not sampled, compared, measured, optimized, exported, pushed,
served or refined: every command ends with exit 3 and a sentence, and writes nothing."""

import json

import pytest
import torch

from dimo_cli import OneStepPipeline
from dimo_cli.errors import MissingError, NotFinite, SpecError
from dimo_cli.exporting import write
from dimo_cli.metrics import prompts
from dimo_cli.metrics.geneval_requests import TAGS
from dimo_cli.play.studio import Studio
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.play import DrawAsk
from dimo_cli.students.folder import BUILTIN, load_student
from tests.helpers.students import changed_student


def one_nan(weights):
    weights["to_logits.bias"][3] = torch.nan


def overflow(weights):
    """Finite weights of which no finite logit comes."""
    weights["to_logits.weight"] *= 1e38


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """Folders of broken students, by name and what is wrong with them."""
    place = tmp_path_factory.mktemp("students")
    return {
        (name, change): changed_student(name, place / f"{name}-{change.__name__}", change)
        for name in BUILTIN
        for change in (one_nan, overflow)
    }


PROMPT = ("--prompt", "a red circle")
COMMANDS = {
    "sample": ("digits", ("sample", "--student", "STUDENT", "-n", 2, "--grid", "new.png")),
    "sample --interpolate": (
        "digits",
        ("sample", "--student", "STUDENT", "--interpolate", "three", "eight", "--grid", "new.png"),
    ),
    "compare": ("digits", ("compare", "STUDENT", "digits", "--class", 7, "--grid", "new.png")),
    "tteo": ("shapes", ("tteo", "STUDENT", *PROMPT, "--reward", "shapes_clip=1", "--out", "new")),
    "export": ("digits", ("export", "STUDENT", "--out", "new.pt2")),
    "push": ("digits", ("push", "STUDENT", "you/digits", "--dry-run")),
}
# Each metric in the networks that are in the package, and all else below `dimo eval` that draws.
MEASURING = {
    **{
        f"eval {name}": ("digits", ("eval", name, "STUDENT")) for name in ("fid", "is", "pr", "kid")
    },
    **{f"eval {name}": ("shapes", ("eval", name, "STUDENT")) for name in ("clip", "image-reward")},
    "eval geneval": ("shapes", ("eval", "geneval", "STUDENT")),
    "eval all": ("digits", ("eval", "all", "STUDENT")),
    "eval fid --sweep": ("digits", ("eval", "fid", "STUDENT", "--sweep", "temperature=1,2")),
}
COMMANDS |= {
    name: (of, (*words, "-n", 50, "--no-cache")) for name, (of, words) in MEASURING.items()
}
COMMANDS["eval fidelity"] = ("digits", ("eval", "fidelity", "STUDENT"))
LOADING = {
    # Their networks are downloaded: the student is looked at before.
    "eval fdd": ("digits", ("eval", "fdd", "STUDENT", "--ref", "digits", "-n", 50)),
    "eval hps": ("shapes", ("eval", "hps", "STUDENT", "-n", 50)),
    "eval pickscore": ("shapes", ("eval", "pickscore", "STUDENT", "--prompts", "shapes")),
    "play": ("digits", ("play", "STUDENT", "--port", 0, "--no-open")),
    "refine": ("digits", ("refine", "STUDENT", "--gan", "--out", "new")),
}


def refused(dimo, folder, arguments):
    """The sentence of a command that ends with exit 3 and leaves nothing."""
    words = [folder if word == "STUDENT" else word for word in arguments]
    result = dimo(*words, "--json")
    assert result.exit_code == 3, (result.stdout, result.stderr, result.exception)
    return json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", [*COMMANDS, *LOADING])
def test_weights_that_are_not_finite_are_refused_by_name(
    dimo, students, tmp_path, monkeypatch, command
):
    monkeypatch.setattr("dimo_cli.play.server.serve", lambda *_: None)
    name, arguments = {**COMMANDS, **LOADING}[command]
    sentence = refused(dimo, students[name, one_nan], arguments)
    assert "not finite: `to_logits.bias`" in sentence
    assert list(tmp_path.glob("new*")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_overflow_are_no_images(dimo, students, tmp_path, command):
    """Of logits that are NaN tokens would be drawn, and painted like any others."""
    name, arguments = COMMANDS[command]
    assert "not finite" in refused(dimo, students[name, overflow], arguments)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("change", [one_nan, overflow])
def test_no_image_for_geneval_is_drawn_with_it(dimo, students, tmp_path, monkeypatch, change):
    monkeypatch.setattr(prompts, "GENEVAL_COUNTS", dict.fromkeys(TAGS, 1))
    asked = {"include": [{"class": "dog", "count": 1}], "prompt": "a red circle"}
    (tmp_path / "asked").write_text("".join(json.dumps({"tag": t, **asked}) + "\n" for t in TAGS))
    call = ("eval", "geneval-export", "STUDENT", "new", "--metadata", "asked")
    assert "not finite" in refused(dimo, students["shapes", change], call)
    assert list(tmp_path.rglob("*.png")) == []


def test_images_that_overflow_are_no_images(dimo, tmp_path, monkeypatch):
    """What a decoder makes of sound tokens."""
    from dimo_cli.teachers.digits import DigitsTokenizer

    paint = DigitsTokenizer.decode
    monkeypatch.setattr(DigitsTokenizer, "decode", lambda *args: paint(*args) * torch.inf)
    for teacher in ((), ("--teacher", "--steps", 2)):
        sentence = refused(dimo, "digits", ("sample", "-n", 2, "--grid", "new.png", *teacher))
        assert "images that the tokenizer of `digits` paints are not finite" in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_that_a_student_draws_nothing(students):
    studio = Studio(load_student(students["digits", overflow]), "mine")
    with pytest.raises(NotFinite):
        studio.draw(DrawAsk(condition="7"), lambda line: None)


def test_a_pipeline_neither_loads_nor_draws_nor_saves_it(students, tmp_path):
    with pytest.raises(NotFinite, match=r"`to_logits\.bias`"):
        OneStepPipeline.from_pretrained(students["digits", one_nan])
    pipeline = OneStepPipeline.from_pretrained(students["digits", overflow])
    with pytest.raises(NotFinite):
        pipeline(class_labels=7)
    pipeline = pipeline.to(torch.float16)  # where its weights are infinite
    with pytest.raises(NotFinite, match=r"`to_logits\.weight`"):
        pipeline.save_pretrained(tmp_path / "half")
    assert list((tmp_path / "half").iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_weights_that_are_no_real_numbers_are_refused_by_name(tmp_path, dtype):
    def cast(weights):
        weights["norm.weight"] = weights["norm.weight"].to(dtype)

    folder = changed_student("digits", tmp_path / "student", cast)
    with pytest.raises(MissingError, match=r"model\.safetensors` holds `norm\.weight` as "):
        load_student(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_precision_are_taken(tmp_path, dtype):
    def cast(weights):
        weights |= {name: weight.to(dtype) for name, weight in weights.items()}

    student = load_student(changed_student("digits", tmp_path / "student", cast))
    assert all(weight.dtype == torch.float32 for weight in student.backbone.parameters())


def test_a_program_that_cannot_be_compared_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    """A difference that is NaN is the largest one, wherever it stands."""
    drawn = write.original

    def third_is_nan(student, cond, spec):
        return drawn(student, cond, spec) * (torch.nan if len(cond) == 3 else 1)

    monkeypatch.setattr(write, "original", third_is_nan)
    with pytest.raises(SpecError, match="differs from the student by nan"):
        write.export_student(load_student(BUILTIN["digits"]), ExportSpec(), tmp_path / "new.pt2")
    assert list(tmp_path.iterdir()) == []
