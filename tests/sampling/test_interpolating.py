"""`dimo sample --init` and `--interpolate`: image tokens in the initial sequence (E.6 and E.7)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.commands.sample import prompts_of_ends
from dimo_cli.engine.masking import initial_tokens
from dimo_cli.sampling.interpolating import file_of, file_tokens, mixed, named_ends, plan_strip
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.students.target import Target
from tests.helpers.students import PROMPTS, PUBLISH, golden_student


@pytest.fixture(scope="module")
def target():
    student = load_student(BUILTIN["digits"])
    return Target(student.teacher, student)


def succeed(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def pictures(folder, name):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / name).iterdir())])


def drawn(dimo, folder, name, *arguments):
    """What one call of `dimo sample` draws, at its own size, and its JSON."""
    flags = ("--out", name, "--pixels", 1, "--json")
    document = succeed(dimo("sample", *arguments, *flags))
    return pictures(folder, name), document


def test_the_tokens_of_a_source_take_the_places_of_random_ones_under_the_same_mask(target):
    space = target.teacher.space
    source = torch.full((1, 64, 1), 9)
    plain, mask = initial_tokens(space, 5, 0.6, torch.Generator().manual_seed(3))
    tokens, same = initial_tokens(space, 5, 0.6, torch.Generator().manual_seed(3), source=source)
    assert torch.equal(mask, same)
    assert (tokens[~mask] == 9).all()
    assert (tokens[mask] == space.mask_id).all()
    assert not (plain[~mask] == 9).all()


def test_an_enlarged_sample_is_read_back_token_by_token(dimo, tmp_path, target):
    succeed(dimo("sample", "--class", 3, "-n", 1, "--out", "large", "--json"))  # 64 x 64 pixels
    original, _ = drawn(dimo, tmp_path, "small", "--class", 3, "-n", 1)
    tokens = file_tokens(target.student, tmp_path / "large" / "00000.png")
    levels = original[0, ..., 0] * (16 / 255)
    assert np.array_equal(tokens.view(8, 8).numpy(), levels.round())


def test_a_picture_of_any_size_loses_its_sides_and_keeps_its_middle(tmp_path, target):
    pixels = np.zeros((40, 200, 3), np.uint8)
    pixels[:, 80:120] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    tokens = file_tokens(target.student, tmp_path / "wide.png").view(8, 8)
    assert (tokens[:, 1:-1] == 16).all()
    assert (tokens >= 15).all()  # the border has a trace of what was cut off


def test_an_image_as_the_source_draws_its_relatives(dimo, tmp_path):
    """E.6: images from encoded tokens resemble their source, those from random tokens do not."""
    sources, _ = drawn(dimo, tmp_path, "sources", "--class", 3, "-n", 8, "--seed", 20)
    plain, _ = drawn(dimo, tmp_path, "plain", "--class", 3, "-n", 16)
    near, far = [], []
    for number, source in enumerate(sources):
        file = tmp_path / "sources" / f"{number:05d}.png"
        relatives, document = drawn(
            dimo, tmp_path, f"relatives{number}", "--class", 3, "--init", file, "-n", 16
        )
        near.append(np.abs(relatives - source.astype(float)).mean())
        far.append(np.abs(plain - source.astype(float)).mean())
        assert len({picture.tobytes() for picture in relatives}) > 1  # each has a mask of its own
        assert document["sampler"]["init"] == file.name
    assert np.mean(near) < 0.75 * np.mean(far)


def test_an_interpolation_ends_where_plain_sampling_starts(dimo, tmp_path):
    """E.7: from an encoded image to the very random tokens of the seed."""
    drawn(dimo, tmp_path, "source", "--class", 5, "-n", 1, "--seed", 7)
    source = tmp_path / "source" / "00000.png"
    flags = ("--class", 5, "--seed", 2)
    strip, document = drawn(
        dimo, tmp_path, "strip", "--interpolate", source, "random", "--frames", 6, *flags
    )
    grid = Image.open(tmp_path / "samples.png")
    assert grid.width > 4 * grid.height  # all frames side by side
    assert "interpolate" in json.loads(grid.text["dimo.sampler"])
    first, _ = drawn(dimo, tmp_path, "first", "--init", source, "-n", 1, *flags)
    last, _ = drawn(dimo, tmp_path, "last", "-n", 1, *flags)
    assert np.array_equal(strip[[0, -1]], np.concatenate([first, last]))
    assert document["images"] == 6
    assert document["sampler"]["shares"] == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_positions_go_over_one_by_one_and_none_goes_back(target):
    spec = SampleSpec(interpolate=("3", "random"), classes=("3",))
    strip = plan_strip(target, spec)
    first, second = (end.tokens for end in strip.ends)
    before = torch.zeros_like(first, dtype=torch.bool)
    for share in np.linspace(0, 1, 17):
        tokens = mixed(strip.ends, share, target.teacher.space, seed=0)
        assert ((tokens == first) | (tokens == second)).all()
        gone = (tokens == second) & (first != second)
        assert (gone | ~before).all()
        before = gone
    assert torch.equal(mixed(strip.ends, 0, target.teacher.space, 0), first)
    assert torch.equal(mixed(strip.ends, 1, target.teacher.space, 0), second)


def test_each_seed_has_an_order_of_its_own(target):
    spec = SampleSpec(interpolate=("3", "random"), classes=("3",))
    ends = plan_strip(target, spec).ends
    one, two, again = (mixed(ends, 0.5, target.teacher.space, seed) for seed in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_between_two_classes_each_frame_is_of_the_nearer_one(dimo, tmp_path):
    strip, document = drawn(dimo, tmp_path, "strip", "--interpolate", "one", 8, "--frames", 4)
    assert document["classes"] == ["one", "one", "eight", "eight"]
    assert len({frame.tobytes() for frame in strip}) == 4
    again, _ = drawn(dimo, tmp_path, "again", "--interpolate", "one", 8, "--frames", 4)
    assert np.array_equal(strip, again)


def test_one_class_may_hold_for_all_frames(dimo, tmp_path):
    flags = ("--interpolate", "one", 8, "--class", 7)
    assert drawn(dimo, tmp_path, "strip", *flags)[1]["classes"] == ["seven"] * 8


def test_prompts_are_interpolated_as_well(dimo, tmp_path):
    ends = ("a red circle", "two blue squares")
    flags = ("--interpolate", *ends, "--frames", 2)
    strip, document = drawn(dimo, tmp_path, "strip", *flags)
    assert document["prompts"] == list(ends)
    named, _ = drawn(dimo, tmp_path, "named", *flags, "--student", "shapes")
    assert np.array_equal(strip, named)


@pytest.mark.parametrize("end", ["a red circle " * 40, "~nosuchuser two circles"])
def test_a_prompt_that_cannot_name_a_file_is_an_end_too(end):
    spec = SampleSpec(interpolate=(end, "random"))
    assert named_ends(spec) == prompts_of_ends(spec) == (end,)
    assert file_of(end) is None


# The golden TiTok reads larger pictures than it paints, which no published one does.
@pytest.mark.parametrize("name", [name for name in PUBLISH if name != "titok-l32"])
def test_every_family_starts_from_an_image(dimo, fake_hub, golden, tmp_path, name):
    folder = golden_student(name, fake_hub, golden, tmp_path / "student")
    student = load_student(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "any.png")
    space = student.teacher.space
    tokens = file_tokens(student, tmp_path / "any.png")
    assert tokens.shape == (1, space.length, space.groups)
    asked = ("--prompt", PROMPTS[0]) if student.teacher.takes_prompts else ("--class", 1)
    base = ("sample", "--student", folder, *asked, "--json")
    assert succeed(dimo(*base, "-n", 2, "--init", "any.png"))["images"] == 2
    strip = dimo(*base, "--interpolate", "any.png", "random", "--frames", 3)
    assert succeed(strip)["images"] == 3


@pytest.fixture
def bad_files(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    see_through = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    see_through.save(tmp_path / "see-through.png")
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--init", "missing.png"), "no image `missing.png`"),
        (("--init", "folder"), "no image `folder`"),
        (("--init", "text.png"), "`text.png` cannot be used: no readable image"),
        (("--init", "empty.png"), "`empty.png` cannot be used: no readable image"),
        (("--init", "deep.png"), "more than 8 bits"),
        (("--init", "see-through.png"), "transparent"),
        (("--init", "moving.webp"), "several frames"),
        (("--init", "good.png", "--teacher"), "apply to students"),
        (("--init", "good.png", "--interpolate", "1", "2"), "exclude each other"),
        (("--init", "good.png", "--class", "eleven"), "no class `eleven`"),
        (("--frames", "4"), "--frames applies to --interpolate"),
        (("--interpolate", "1", "eleven"), "no class `eleven`"),
        (("--interpolate", "1", "12"), "`--interpolate` is 12"),
        (("--interpolate", "1", "1"), "to itself"),
        (("--interpolate", "1", "2", "--frames", "1"), "`--frames` is 1"),
        (("--interpolate", "1", "2", "-n", "4"), "leave out -n"),
        (("--interpolate", "1", "2", "--teacher"), "apply to students"),
        (("--interpolate", "1", "2", "--class", "3", "--class", "4"), "one --class"),
        (("--interpolate", "1", "missing.png"), "no image `missing.png`"),
        (("--interpolate", "good.png", "random"), "Neither end"),
        (("--interpolate", "1", "2", "--prompt", "a", "--student", "digits"), "takes classes"),
        (("--interpolate", "a circle", "a red square", "--student", "shapes", "--class", "1"),
         "takes prompts"),
        (("--interpolate", "a circle", "a submarine", "--student", "shapes"), "submarine"),
    ],
)  # fmt: skip
def test_bad_images_classes_and_flags_are_told_in_a_sentence(dimo, bad_files, arguments, words):
    result = dimo("sample", *arguments)
    assert result.exit_code in (2, 3), result.stdout
    assert words in result.stderr


def test_a_student_without_image_tokens_in_its_input_is_refused(tmp_path, target):
    from dataclasses import replace

    from dimo_cli.errors import SpecError

    student, manifest = target.student, target.student.manifest
    init = manifest.init.model_copy(update={"control": "encoded_noise"})
    strange = replace(student, manifest=manifest.model_copy(update={"init": init}))
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    with pytest.raises(SpecError, match="starts from encoded noise"):
        file_tokens(strange, tmp_path / "good.png")


def test_a_tokenizer_that_only_decodes_is_told_in_a_sentence(tmp_path, target, monkeypatch):
    from dimo_cli.errors import SpecError

    def encode(self, images):
        raise NotImplementedError

    monkeypatch.setattr(type(target.teacher.tokenizer), "encode", encode)
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    with pytest.raises(SpecError, match="only decodes"):
        file_tokens(target.student, tmp_path / "good.png")
