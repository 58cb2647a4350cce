"""`dimo export`: what it writes runs without dimo, and draws what the student draws."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

import tests.helpers.forking  # noqa: F401
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.exporting.program import Program, draw_inputs
from dimo_cli.exporting.write import export_student
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.students.folder import BUILTIN, load_student
from tests.helpers.students import OTHER_NETWORKS, PROMPTS, PUBLISH, golden_student

# dimo can be imported by nobody in this process, and neither can what it brings along.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dimo_cli", "diffusers", "transformers", "safetensors"):
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
"""


def run_without_dimo(folder, code):
    """Run code in a folder with torch alone; `images` is what it leaves."""
    script = (
        f"{HIDDEN}\n{code}\ntorch.save(images, 'found.pt')\nassert 'dimo_cli' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return torch.load(folder / "found.pt", weights_only=True)


def succeed(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def own_images(student, wanted, seed=0, **sampling):
    from dimo_cli.sampling.samplers import draw_images
    from dimo_cli.students.target import Target

    target, spec = Target(student.teacher, student), SamplerSpec(seed=seed, **sampling)
    return draw_images(target, wanted, spec)[0]


@pytest.mark.parametrize(
    ("name", "prompts"), [("digits", ()), ("shapes", ("a red circle", "two blue squares"))]
)
def test_the_usage_in_the_json_draws_what_dimo_sample_draws_without_dimo(
    dimo, tmp_path, name, prompts
):
    flags = [part for prompt in prompts for part in ("--prompt", prompt)]
    document = succeed(dimo("export", name, "--out", "out/model.pt2", *flags, "--json"))
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert document["check"] == facts["check"]
    found = run_without_dimo(tmp_path / "out", "\n".join(facts["usage"]))
    assert torch.equal(found, own_images(load_student(BUILTIN[name]), prompts or [0, 1]))


# The two largest networks take as long to trace as all others; a sibling of each is below.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("meissonic", "amused-256") else ())
        for name in PUBLISH
    ],
)
def test_a_student_of_every_family_is_exported_and_draws_the_same_without_dimo(
    dimo, fake_hub, golden, tmp_path, monkeypatch, name
):
    # As at the published sizes, where images have more tokens than this decoder paints at once.
    monkeypatch.setattr("dimo_cli.teachers.vq_model.TOKENS_AT_ONCE", 1)
    folder = golden_student(name, fake_hub, golden, tmp_path / "student")
    student = load_student(folder)
    by_prompt = student.teacher.takes_prompts
    flags = [part for prompt in PROMPTS[:2] for part in ("--prompt", prompt)] if by_prompt else []
    document = succeed(dimo("export", folder, "--out", "out/model.pt2", *flags, "--json"))
    assert document["check"]["max_abs_difference"] <= 1e-4
    found = run_without_dimo(tmp_path / "out", "\n".join(document["usage"]))
    wanted = PROMPTS[:2] if by_prompt else [0, 1]
    assert (found - own_images(student, wanted)).abs().max() <= 1e-4
    assert (found - own_images(student, wanted, seed=1)).abs().max() > 1e-2

    # What all prompts share is no input, and weights that nothing uses are not in the file.
    assert not {"micro", "aesthetic"} & document["inputs"].keys()
    weights = torch.export.load(tmp_path / "out" / "model.pt2").state_dict
    assert any("tokenizer.decoder" in key for key in weights)
    assert not any("tokenizer.encoder" in key for key in weights)


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_the_other_networks_of_the_families_are_exported(fake_hub, golden, tmp_path, name):
    student = load_student(golden_student(name, fake_hub, golden, tmp_path / "student"))
    exported = export_student(student, ExportSpec(), tmp_path / "model.pt2")
    assert exported.facts["check"]["max_abs_difference"] <= 1e-4


@pytest.fixture(scope="module")
def digits():
    return load_student(BUILTIN["digits"])


def program_of(path):
    return torch.export.load(path).module()


def test_any_number_of_images_goes_through_one_program(digits, tmp_path):
    exported = export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    program = program_of(exported.files[0])
    for count in (1, 2, 7):
        cond = digits.teacher.conditioner.labels(torch.arange(count))
        inputs = draw_inputs(digits, cond, ExportSpec(), seed=5)
        generator = torch.Generator().manual_seed(5)
        assert torch.equal(program(inputs), digits.sample(cond, generator))


@pytest.mark.parametrize(
    ("sampling", "same"),
    [
        (
            {"temperature": 3, "top_k": 4, "top_p": 0.9},
            {"temperature": 3, "top_k": 4, "top_p": 0.9},
        ),
        ({"greedy": True}, {"top_k": 1}),
    ],
)
def test_how_tokens_are_drawn_is_part_of_the_program(digits, tmp_path, monkeypatch, sampling, same):
    facts = export_student(digits, ExportSpec(**sampling), tmp_path / "digits.pt2").facts
    assert ("gumbel" in facts["inputs"]) == ("greedy" not in sampling)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(facts["usage"]), names)
    assert torch.equal(names["images"], own_images(digits, [0, 1], **same))
    assert not torch.equal(names["images"], own_images(digits, [0, 1]))


def test_the_json_says_names_shapes_and_dtypes_of_all_inputs(digits, tmp_path):
    facts = export_student(digits, ExportSpec(), tmp_path / "digits.pt2").facts
    shapes = {name: (entry["shape"], entry["dtype"]) for name, entry in facts["inputs"].items()}
    assert shapes == {
        "x_init": (["batch", 64, 1], "int64"),
        "label": (["batch"], "int64"),
        "gumbel": (["batch", 64, 1, 17], "float32"),
    }
    assert facts["output"]["shape"] == ["batch", 3, 8, 8]
    assert facts["classes"][3] == "three"
    assert facts["x_init"]["masked"] == 38  # round(0.6 * 64)
    extra = {"dimo.json": ""}
    torch.export.load(tmp_path / "digits.pt2", extra_files=extra)
    assert json.loads(extra["dimo.json"])["usage"] == facts["usage"]


def test_a_program_that_differs_is_refused_and_leaves_nothing(digits, tmp_path, monkeypatch):
    shifted = Program.forward
    monkeypatch.setattr(Program, "forward", lambda self, inputs: shifted(self, inputs) + 1e-3)
    with pytest.raises(SpecError, match=r"differs from the student by 0\.001"):
        export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    assert list(tmp_path.iterdir()) == []


def test_networks_that_cannot_be_traced_are_told_in_a_sentence(digits, tmp_path, monkeypatch):
    hidden = type(digits.backbone).hidden

    def looks_at_values(self, embeds, cond, taps=()):
        return hidden(self, embeds * (1 if embeds.sum() > -1e9 else 2), cond, taps)

    monkeypatch.setattr(type(digits.backbone), "hidden", looks_at_values)
    with pytest.raises(SpecError, match="The networks of `digits` cannot be exported: "):
        export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_student_with_an_experimental_input_is_refused(digits, tmp_path):
    from dataclasses import replace

    init = digits.manifest.init.model_copy(update={"control": "fixed_image_token"})
    student = replace(digits, manifest=digits.manifest.model_copy(update={"init": init}))
    with pytest.raises(SpecError, match=r"init\.control=fixed_image_token"):
        export_student(student, ExportSpec(), tmp_path / "digits.pt2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--out", "model.onnx"), "must end in .pt2"),
        (("digits", "--prompt", "a fox"), "takes classes"),
        (("digits", "--greedy", "--top-k", "3"), "--greedy"),
        (("digits", "--temperature", "0"), "--temperature"),
        (("digits", "--prompts-file", "no.txt"), "no.txt"),
        (("nothing-here",), "does not exist"),
        (("shapes", "--prompt", "a red submarine"), "submarine"),
    ],
)
def test_a_wrong_call_is_a_sentence(dimo, tmp_path, arguments, words):
    result = dimo("export", *arguments)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert not list(tmp_path.glob("*.pt2"))


def test_a_folder_that_cannot_be_written_to_is_named(dimo, tmp_path):
    (tmp_path / "file").touch()
    result = dimo("export", "digits", "--out", "file/model.pt2")
    assert result.exit_code == 3
    assert "file/model.pt2" in result.stderr


def how_an_export_ends(student, path, size):
    """The exit code of a process that exports where a file may have so many bytes."""
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            export_student(student, ExportSpec(), path)
            os._exit(0)
        except MissingError as error:
            os._exit(error.exit_code if "File too large" in error.message else 1)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(digits, tmp_path):
    """torch's own writer of archives ends the process with an abort."""
    assert how_an_export_ends(digits, tmp_path / "model.pt2", 100_000) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full", ["torch.save", "json.dumps"])
def test_the_files_of_a_program_come_together_or_not_at_all(tmp_path, monkeypatch, full):
    """Also where only the last of them has no room; an older program stays as it was."""
    (tmp_path / "shapes.pt2").write_text("old")

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dimo_cli.exporting.write.write_program", lambda *args: {})
    monkeypatch.setattr(f"dimo_cli.exporting.write.{full}", no_room)
    with pytest.raises(MissingError, match="No space left"):
        export_student(load_student(BUILTIN["shapes"]), ExportSpec(), tmp_path / "shapes.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.pt2"]
    assert (tmp_path / "shapes.pt2").read_text() == "old"


def test_a_folder_in_the_place_of_a_program_is_refused_at_once(dimo, tmp_path):
    (tmp_path / "model.pt2").mkdir()
    result = dimo("export", "digits", "--out", "model.pt2")
    assert result.exit_code == 3
    assert "Cannot write `model.pt2`: it is a folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
