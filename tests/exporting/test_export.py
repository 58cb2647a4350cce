"""`dimo export`: what it writes runs without dimo, and draws what the student draws."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tests.helpers.forking  # noqa: F401
from dimo_cli.engine import one_step
from dimo_cli.engine.lora import new_adapters
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.exporting import formats, write
from dimo_cli.exporting.program import ClassProgram, Program, as_picture, program_of
from dimo_cli.exporting.write import export_student
from dimo_cli.hub.loading import fill
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.lora import LoraSpec
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.teachers.conditioning import TextEncoder
from dimo_cli.teachers.stored import plain_copy, store
from tests.helpers.students import OTHER_NETWORKS, PROMPTS, PUBLISH, golden_student

LIMIT = 1e-4
EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ("maskbit",)  # besides the digits and the shapes of the other tests
EXPORTED = [*PUBLISH, *OTHER_NETWORKS]
ONNX = pytest.importorskip("onnxscript", reason="extra `onnx`")

# dimo can be imported by nobody in this process, and neither can what it brings along.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in %s:
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
"""
NO_DIMO = ("dimo_cli", "diffusers", "transformers", "safetensors")
NO_TORCH = (*NO_DIMO, "torch")


def run_without(hidden, folder, code):
    """Run code in a folder; `image` is what it leaves."""
    script = f"{HIDDEN % (hidden,)}\n{code}\nimport numpy; numpy.save('found.npy', image)"
    result = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = torch.from_numpy(np.load(folder / "found.npy"))
    (folder / "found.npy").unlink()
    return found


def from_its_usage(exported):
    """What the lines of a file's own usage draw, run here."""
    names, before = {}, Path.cwd()
    os.chdir(exported.path.parent)
    try:
        exec("\n".join(exported.facts["usage"]), names)
    finally:
        os.chdir(before)
    return torch.as_tensor(names["image"])


def fed(monkeypatch, draws):
    """Let students draw these numbers, whatever their generator says."""
    monkeypatch.setattr(
        "dimo_cli.students.student.student_input", lambda *args, **more: draws.x_init
    )
    noise = draws.embed_noise
    monkeypatch.setattr("dimo_cli.engine.schedules.normal", lambda shape, source: noise)
    if draws.gumbel is not None:
        exponentials = (-draws.gumbel.double()).exp().float()
        monkeypatch.setattr(
            one_step, "exponential", lambda shape, source: exponentials.view(shape).clone()
        )


def own_pictures(monkeypatch, student, wanted, spec=None, seeds=(0, 1)):
    """What the student itself makes of the draws that seeds stand for."""
    spec = spec or ExportSpec()
    program, teacher = program_of(student, spec), student.teacher
    with monkeypatch.context() as patch, torch.no_grad():
        cond = write.condition(teacher, wanted)
        fed(patch, program.draw(torch.tensor(seeds)))
        return as_picture(write.original(student, cond, spec))


@pytest.fixture(scope="module")
def digits():
    return load_student(BUILTIN["digits"])


@pytest.fixture(scope="module")
def shapes():
    return load_student(BUILTIN["shapes"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def digits_pt2(digits, folder):
    return export_student(digits, ExportSpec(), folder / "pt2" / "digits.pt2")


@pytest.fixture(scope="module")
def digits_onnx(digits, folder):
    return export_student(digits, ExportSpec(), folder / "onnx" / "digits.onnx")


@pytest.fixture
def traced(digits, digits_pt2, monkeypatch):
    """For what comes after the trace, which takes longest."""
    program = torch.export.load(digits_pt2.path)
    monkeypatch.setattr(write, "trace", lambda *given: program)


@pytest.fixture(scope="module")
def shapes_pt2(shapes, folder):
    return export_student(shapes, ExportSpec(), folder / "shapes.pt2")


def loaded(exported):
    return torch.export.load(exported.path).module()


# The picture -------------------------------------------------------------------------------------


def test_a_seed_and_a_class_are_all_that_a_picture_takes(digits, digits_pt2, monkeypatch):
    program = torch.export.load(digits_pt2.path).module()
    image = program(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert image.shape == (2, 3, 8, 8)
    assert not image.requires_grad
    own = own_pictures(monkeypatch, digits, [0, 1])
    assert (image - own).abs().max() <= LIMIT
    assert (program(torch.tensor([2, 1]), torch.tensor([0, 1])) - own)[0].abs().max() > 0.1


def test_a_seed_and_a_prompt_are_all_that_a_picture_takes(shapes, shapes_pt2, monkeypatch):
    own = own_pictures(monkeypatch, shapes, ["a red circle", "two blue squares"])
    assert (from_its_usage(shapes_pt2) - own).abs().max() <= LIMIT


def test_its_own_usage_runs_without_dimo(digits_pt2, digits):
    found = run_without(NO_DIMO, digits_pt2.path.parent, "\n".join(digits_pt2.facts["usage"]))
    assert torch.equal(found, loaded(digits_pt2)(torch.tensor([0, 1]), torch.tensor([0, 1])))


def in_memory(student, spec=None):
    """What a program draws before it is written."""
    return program_of(student, spec or ExportSpec())(torch.tensor([0, 1]), torch.tensor([0, 1]))


def test_noise_of_embeddings_comes_from_the_seed_too(digits, monkeypatch):
    """The student was trained with it; more of it shows that it is there."""
    init = digits.manifest.init
    louder = init.model_copy(update={"embed_noise": type(init.embed_noise)(sigma=0.9)})
    student = replace(digits, manifest=digits.manifest.model_copy(update={"init": louder}))
    found = in_memory(student)
    assert (found - own_pictures(monkeypatch, student, [0, 1])).abs().max() <= LIMIT
    assert (found - own_pictures(monkeypatch, digits, [0, 1])).abs().max() > 0.1


def test_a_picture_is_the_same_in_whichever_batch(digits_pt2):
    program = loaded(digits_pt2)
    seeds, labels = torch.arange(7), torch.arange(7)
    together = program(seeds, labels)
    for index in range(7):
        part = slice(index, index + 1)
        assert (program(seeds[part], labels[part]) - together[part]).abs().max() <= LIMIT


@pytest.mark.parametrize(
    "sampling", [{"temperature": 3, "top_k": 4, "top_p": 0.9}, {"greedy": True}]
)
def test_how_tokens_are_drawn_is_part_of_the_program(digits, monkeypatch, sampling):
    spec = ExportSpec(**sampling)
    found = in_memory(digits, spec)
    assert (found - own_pictures(monkeypatch, digits, [0, 1], spec)).abs().max() <= LIMIT
    assert (found - own_pictures(monkeypatch, digits, [0, 1])).abs().max() > 0.01


# The file ----------------------------------------------------------------------------------------


def test_one_file_is_all_there_is(digits_pt2, digits_onnx):
    for exported in (digits_pt2, digits_onnx):
        assert list(exported.path.parent.iterdir()) == [exported.path]


def test_the_file_says_names_shapes_and_dtypes_of_its_inputs(digits_pt2):
    extra = {"dimo.json": ""}
    torch.export.load(digits_pt2.path, extra_files=extra)
    facts = json.loads(extra["dimo.json"])
    shapes = {name: (entry["shape"], entry["dtype"]) for name, entry in facts["inputs"].items()}
    assert shapes == {"seed": (["batch"], "int64"), "label": (["batch"], "int64")}
    assert facts["output"]["shape"] == ["batch", 3, 8, 8]
    assert facts["classes"][3] == "three"
    assert facts["usage"] == digits_pt2.facts["usage"]


def test_what_nothing_uses_is_not_in_the_file(shapes_pt2):
    names = torch.export.load(shapes_pt2.path).state_dict.keys()
    assert any(name.startswith("text.") for name in names)
    assert any(name.startswith("tokenizer.decoder") for name in names)
    assert not any(name.startswith("tokenizer.encoder") for name in names)


def test_a_word_that_the_student_does_not_know_is_refused_by_the_file(shapes_pt2):
    from tokenizers import Tokenizer

    extra = {"tokenizer.json": ""}
    torch.export.load(shapes_pt2.path, extra_files=extra)
    words = Tokenizer.from_str(extra["tokenizer.json"])
    assert words.encode("A Red, circle.").ids == words.encode("a red circle").ids
    with pytest.raises(Exception, match="UNK"):
        words.encode("a red submarine")


# ONNX --------------------------------------------------------------------------------------------


def test_an_onnx_file_draws_the_same_pictures_without_torch(digits_onnx, digits_pt2):
    code = "\n".join(digits_onnx.facts["usage"])
    found = run_without(NO_TORCH, digits_onnx.path.parent, code)
    program = loaded(digits_pt2)
    assert (found - program(torch.tensor([0, 1]), torch.tensor([0, 1]))).abs().max() <= LIMIT


def test_an_onnx_file_takes_any_number_of_images_and_any_seed(digits_onnx, digits_pt2):
    runs, program = formats.load_onnx(digits_onnx.path), loaded(digits_pt2)
    seeds = torch.tensor([0, -1, 2**63 - 1, -(2**63), 2**32])
    labels = torch.arange(5)
    assert (runs(seeds, labels) - program(seeds, labels)).abs().max() <= LIMIT
    assert runs(seeds[:1], labels[:1]).shape == (1, 3, 8, 8)


def test_the_example_draws_a_row_of_a_class_without_torch(digits_onnx, digits_pt2, tmp_path):
    script = EXAMPLES / "draw_from_onnx.py"
    assert len(script.read_text().splitlines()) < 80
    out = tmp_path / "row.png"
    words = (str(digits_onnx.path), "seven", "--seed", "3", "-n", "2", "--out", str(out))
    said = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{out}: 2 pictures of seven, seeds 3 to 4\n"
    own = loaded(digits_pt2)(torch.tensor([3, 4]), torch.tensor([7, 7]))
    row = torch.from_numpy(np.asarray(Image.open(out)).astype(np.float32) / 255)
    assert (row - torch.cat(list(own.permute(0, 2, 3, 1)), 1)).abs().max() <= 0.5 / 255 + LIMIT


@pytest.mark.slow
def test_an_onnx_file_reads_prompts(shapes, tmp_path, monkeypatch):
    exported = export_student(shapes, ExportSpec(), tmp_path / "shapes.onnx")
    own = own_pictures(monkeypatch, shapes, ["a red circle", "two blue squares"])
    assert (from_its_usage(exported) - own).abs().max() <= LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{"top_k": 4, "top_p": 0.9}, {"greedy": True}])
def test_how_tokens_are_drawn_is_part_of_an_onnx_file(digits, tmp_path, monkeypatch, sampling):
    spec = ExportSpec(**sampling)
    found = from_its_usage(export_student(digits, spec, tmp_path / "digits.onnx"))
    assert (found - own_pictures(monkeypatch, digits, [0, 1], spec)).abs().max() <= LIMIT


def test_onnx_without_its_packages_is_a_sentence_before_anything_is_loaded(dimo, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    monkeypatch.setattr("dimo_cli.students.published.open_student", pytest.fail)
    result = dimo("export", "digits", "--out", "digits.onnx")
    assert result.exit_code == 3
    assert "not installed: onnxruntime" in result.stderr
    assert "pip install 'dimo-cli[onnx]'" in result.stderr


def test_what_is_too_large_for_onnx_is_told_the_way_out(digits, traced, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MOST_BYTES", 2**18)
    with pytest.raises(SpecError, match="An ONNX file holds 2 GiB") as caught:
        export_student(digits, ExportSpec(), tmp_path / "digits.onnx")
    assert ".pt2" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnx_has_no_words_for_is_named(digits, traced, tmp_path, monkeypatch):
    def lost(*args, **kwargs):
        raise RuntimeError("Failed") from NotImplementedError("no ONNX function for aten.odd")

    monkeypatch.setattr(torch.onnx, "export", lost)
    with pytest.raises(SpecError, match=r"`digits` cannot be exported: no ONNX function for"):
        export_student(digits, ExportSpec(), tmp_path / "digits.onnx")
    assert list(tmp_path.iterdir()) == []


# All families ------------------------------------------------------------------------------------


def export_golden(name, suffix, fake_hub, golden, tmp_path, monkeypatch):
    """A student of a family and its file, which draws what the student draws."""
    # As at the published sizes, where images have more tokens than this decoder paints at once.
    monkeypatch.setattr("dimo_cli.teachers.vq_model.TOKENS_AT_ONCE", 1)
    student = load_student(golden_student(name, fake_hub, golden, tmp_path / "student"))
    exported = export_student(student, ExportSpec(), tmp_path / f"model{suffix}")
    assert exported.facts["check"]["max_abs_difference"] <= LIMIT
    wanted = ["a red circle", "two blue squares"] if student.teacher.takes_prompts else [0, 1]
    own = own_pictures(monkeypatch, student, wanted)
    assert (from_its_usage(exported) - own).abs().max() <= LIMIT
    assert exported.facts["inputs"].keys() == {"seed", "tokens" if wanted[0] else "label"}
    return exported


# To trace a network takes seconds.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in EXPORTED],
)
def test_a_student_of_every_family_is_exported(fake_hub, golden, tmp_path, monkeypatch, name):
    exported = export_golden(name, ".pt2", fake_hub, golden, tmp_path, monkeypatch)
    weights = torch.export.load(exported.path).state_dict
    assert any("tokenizer.decoder" in key for key in weights)
    assert not any("tokenizer.encoder" in key for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_a_student_of_every_family_fits_into_onnx(fake_hub, golden, tmp_path, monkeypatch, name):
    export_golden(name, ".onnx", fake_hub, golden, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["maskgen-l", "monetico", "lumina-dimoo"])
def test_the_tokenizer_of_a_file_reads_like_the_students_own(fake_hub, golden, tmp_path, name):
    from tokenizers import Tokenizer

    student = load_student(golden_student(name, fake_hub, golden, tmp_path / "student"))
    tower = student.teacher.conditioner.encoder()
    words = Tokenizer.from_str(tower.tokenizer_json())
    prompts = [*PROMPTS, "", "It's 12 o'clock,  and\tÜber alles!"]
    if tower.template == "{prompt}":  # or what is too long is refused, and not cut
        prompts.append("very " * 100)
    texts = [tower.template.format(prompt=prompt) for prompt in prompts]
    assert [words.encode(text).ids for text in texts] == tower.tokens(prompts).tolist()


@pytest.mark.slow
def test_adapters_over_int8_are_exported_as_they_draw(digits, tmp_path, monkeypatch):
    base = plain_copy(digits.teacher.backbone)
    fill(base, digits.backbone.state_dict(), "the student")
    store(base, "int8")
    student = replace(digits, backbone=new_adapters(base, LoraSpec(rank=2), 0))
    exported = export_student(student, ExportSpec(), tmp_path / "digits.pt2")
    own = own_pictures(monkeypatch, student, [0, 1])
    assert (loaded(exported)(torch.tensor([0, 1]), torch.tensor([0, 1])) - own).abs().max() <= LIMIT


# What is refused ---------------------------------------------------------------------------------


def test_a_file_that_differs_is_refused_and_leaves_nothing(digits, traced, tmp_path, monkeypatch):
    load = formats.load_pt2

    def shifted(file):
        program = load(file)
        return lambda *inputs: program(*inputs) + 1e-3

    shown = formats.FORMATS[".pt2"]._replace(load=shifted)
    monkeypatch.setitem(formats.FORMATS, ".pt2", shown)
    with pytest.raises(SpecError, match=r"differs from the student by 0\.001"):
        export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_not_the_student_is_refused(digits, tmp_path, monkeypatch):
    paint = Program.paint
    monkeypatch.setattr(Program, "paint", lambda self, *given: paint(self, *given) * 0.9)
    with pytest.raises(SpecError, match="differs from the student"):
        export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_reads_otherwise_is_refused(shapes, monkeypatch):
    program = program_of(shapes, ExportSpec())
    wanted = program.tower.tokens(["a red circle"])
    assert write.checked_words(program, ["a red circle"], wanted)
    with pytest.raises(SpecError, match="reads prompts in another way"):
        write.checked_words(program, ["a blue circle"], wanted)


def test_networks_that_cannot_be_traced_are_told_in_a_sentence(digits, tmp_path, monkeypatch):
    hidden = type(digits.backbone).hidden

    def looks_at_values(self, embeds, cond, taps=()):
        return hidden(self, embeds * (1 if embeds.sum() > -1e9 else 2), cond, taps)

    monkeypatch.setattr(type(digits.backbone), "hidden", looks_at_values)
    with pytest.raises(SpecError, match="The networks of `digits` cannot be exported: "):
        export_student(digits, ExportSpec(), tmp_path / "digits.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_student_with_an_experimental_input_is_refused(digits, tmp_path):
    init = digits.manifest.init.model_copy(update={"control": "fixed_image_token"})
    student = replace(digits, manifest=digits.manifest.model_copy(update={"init": init}))
    with pytest.raises(SpecError, match=r"init\.control=fixed_image_token"):
        export_student(student, ExportSpec(), tmp_path / "digits.pt2")


def test_a_text_encoder_that_is_no_network_behind_token_ids_is_refused(tmp_path, monkeypatch):
    class Letters(TextEncoder):
        def encode(self, prompts):
            return {}

        def to(self, device):
            pass

    student = load_student(BUILTIN["shapes"])
    monkeypatch.setattr(student.teacher.conditioner, "load_encoder", Letters)
    with pytest.raises(SpecError, match="text encoder of `shapes` cannot be exported"):
        export_student(student, ExportSpec(), tmp_path / "shapes.pt2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--out", "model.pth"), "must end in .pt2 or .onnx"),
        (("digits", "--greedy", "--top-k", "3"), "--greedy"),
        (("digits", "--temperature", "0"), "--temperature"),
        (("nothing-here",), "does not exist"),
    ],
)
def test_a_wrong_call_is_a_sentence(dimo, tmp_path, arguments, words):
    result = dimo("export", *arguments)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert not list(tmp_path.glob("*.pt2"))


def test_the_command_says_where_the_file_is_and_how_to_draw_from_it(
    dimo, traced, tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "compare_file", lambda *given: 0.0)
    result = dimo("export", "digits", "--out", "out/model.pt2", "--json")
    document = json.loads(result.stdout)
    assert document["file"] == "out/model.pt2"
    assert document["usage"][-1] == "image = program(torch.tensor([0, 1]), torch.tensor([0, 1]))"
    assert len(document["sha256"]) == 64


# The disk ----------------------------------------------------------------------------------------


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


def test_a_full_disk_is_a_sentence_for_onnx_too(digits, traced, tmp_path, monkeypatch):
    def no_room(self, data):
        raise OSError(28, "No space left on device")

    (tmp_path / "digits.onnx").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", no_room)
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **more: Nothing())
    with pytest.raises(MissingError, match="No space left"):
        export_student(digits, ExportSpec(), tmp_path / "digits.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]
    assert (tmp_path / "digits.onnx").read_text() == "old"


class Nothing:
    """What the exporter of ONNX returns, with nothing in it."""

    @property
    def model_proto(self):
        import onnx

        return onnx.ModelProto()


def test_a_folder_in_the_place_of_a_program_is_refused_at_once(dimo, tmp_path):
    (tmp_path / "model.pt2").mkdir()
    result = dimo("export", "digits", "--out", "model.pt2")
    assert result.exit_code == 3
    assert "Cannot write `model.pt2`: it is a folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_class_program_calls_its_inputs_by_name(digits):
    assert isinstance(program_of(digits, ExportSpec()), ClassProgram)
