"""`OneStepPipeline`: a student under the calls that users of diffusers know."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli import OneStepPipeline
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.students.folder import BUILTIN
from tests.helpers.students import PROMPTS, PUBLISH, golden_student

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # what the fake Hub answers with


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return OneStepPipeline.from_pretrained("digits")


@pytest.fixture(scope="module")
def shapes():
    return OneStepPipeline.from_pretrained("shapes")


def as_arrays(images):
    return np.stack([np.asarray(image) for image in images])


def drawn_by_the_command(dimo, folder, *arguments):
    """The images that `dimo sample` writes one by one, at their own size."""
    result = dimo("sample", *arguments, "--out", "each", "--pixels", 1)
    assert result.exit_code == 0, result.stderr
    return as_arrays(Image.open(path) for path in sorted((folder / "each").iterdir()))


def test_the_same_seed_gives_the_bytes_of_dimo_sample_for_classes(dimo, tmp_path, digits):
    expected = drawn_by_the_command(dimo, tmp_path, "--class", 7, "-n", 5, "--seed", 3)
    images = digits(class_labels=7, num_images_per_prompt=5, generator=seeded(3)).images
    assert np.array_equal(as_arrays(images), expected)


def test_the_same_seed_gives_the_bytes_of_dimo_sample_for_prompts(dimo, tmp_path, shapes):
    prompts = ["a red circle", "two blue squares"]
    flags = [part for prompt in prompts for part in ("--prompt", prompt)]
    expected = drawn_by_the_command(dimo, tmp_path, *flags, "-n", 2, "--seed", 11)
    assert np.array_equal(as_arrays(shapes(prompts, generator=seeded(11)).images), expected)


def test_more_images_than_one_pass_takes_are_still_the_same(dimo, tmp_path, digits):
    expected = drawn_by_the_command(dimo, tmp_path, "--class", 2, "-n", 259, "--temperature", 2)
    images = digits(class_labels=[2] * 259, generator=seeded(0), temperature=2).images
    assert np.array_equal(as_arrays(images), expected)


def test_a_list_of_generators_gives_each_image_as_if_it_were_drawn_alone(digits):
    together = digits(
        class_labels=[1, 2], generator=[seeded(5), seeded(6)], output_type="np"
    ).images
    alone = [
        digits(class_labels=label, generator=seeded(seed), output_type="np").images
        for label, seed in ((1, 5), (2, 6))
    ]
    assert np.array_equal(together, np.concatenate(alone))


def test_without_a_generator_the_seed_of_torch_counts(digits):
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(digits(class_labels=3, output_type="pt").images)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_classes_go_by_number_name_list_or_tensor(digits):
    asked = (3, "three", ["three"], (3,), torch.tensor([3]), torch.tensor(3))
    asked += (np.int64(3), np.array(3), np.array([[3]]), [np.int8(3)])
    images = [digits(class_labels=a, generator=seeded(1), output_type="pt").images for a in asked]
    assert all(torch.equal(image, images[0]) for image in images)


def test_output_types_are_those_of_diffusers(digits):
    outputs = {
        kind: digits(class_labels=[4, 5], generator=seeded(2), output_type=kind).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert [image.size for image in outputs["pil"]] == [(8, 8), (8, 8)]
    assert outputs["np"].shape == (2, 8, 8, 3)
    assert outputs["pt"].shape == (2, 3, 8, 8)
    assert 0 <= outputs["pt"].min() < outputs["pt"].max() <= 1
    assert np.array_equal(outputs["np"], outputs["pt"].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(as_arrays(outputs["pil"]), (outputs["np"] * 255).round().astype(np.uint8))
    assert outputs["latent"].shape == (2, 64, 1)
    assert torch.equal(outputs["latent"].view(2, 8, 8) / 16, outputs["pt"][:, 0])
    (plain,) = digits(class_labels=[4, 5], generator=seeded(2), output_type="pt", return_dict=False)
    assert torch.equal(plain, outputs["pt"])


def test_the_callback_is_called_once_after_the_step_and_may_change_the_tokens(digits):
    calls = []

    def all_white(pipeline, step, timestep, tensors):
        calls.append((pipeline, step, timestep, list(tensors)))
        return {"latents": torch.full_like(tensors["latents"], 16)}

    images = digits(class_labels=[1] * 300, callback_on_step_end=all_white, output_type="pt").images
    assert calls == [(digits, 0, 0, ["latents"])]
    assert (images == 1).all()
    asked = {"callback_on_step_end_tensor_inputs": ["latents"], "generator": seeded(0)}
    same = digits(class_labels=1, callback_on_step_end=lambda *_: None, output_type="pt", **asked)
    plain = digits(class_labels=1, generator=seeded(0), output_type="pt")
    assert torch.equal(same.images, plain.images)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(torch.full((1, 64, 1), 17), "0 to 16"), (torch.zeros(1, 64, 2), "float32")],
)
def test_a_callback_cannot_return_what_is_no_token(digits, tokens, words):
    with pytest.raises(SpecError, match=words):
        digits(class_labels=1, callback_on_step_end=lambda *_: {"latents": tokens})


def test_an_image_takes_the_place_of_the_random_tokens(dimo, tmp_path, digits):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    picture.save(tmp_path / "start.png")
    flags = ("--class", 3, "-n", 4, "--init", "start.png")
    expected = drawn_by_the_command(dimo, tmp_path, *flags)
    found = digits(class_labels=3, num_images_per_prompt=4, image=picture, generator=seeded(0))
    assert np.array_equal(as_arrays(found.images), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_what_full_precision_draws_but_for_a_few_tokens(dtype):
    for name, asked in (("digits", {"class_labels": [1, 2]}), ("shapes", {"prompt": PROMPT})):
        full, half = (OneStepPipeline.from_pretrained(name, dtype=d) for d in (None, dtype))
        assert half.dtype == dtype
        assert (
            next(half.student.teacher.tokenizer.parameters(), torch.ones(1)).dtype == torch.float32
        )
        found, expected = (
            p(**asked, generator=seeded(0), output_type="latent").images for p in (half, full)
        )
        assert (found == expected).float().mean() > 0.8


PROMPT = "a red circle"


@pytest.mark.parametrize("name", PUBLISH)
def test_every_family_is_drawn_from_in_half_precision(fake_hub, golden, tmp_path, name):
    folder = golden_student(name, fake_hub, golden, tmp_path / "student")
    pipeline = OneStepPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    by_prompt = pipeline.student.teacher.takes_prompts
    asked = {"prompt": PROMPTS[0]} if by_prompt else {"class_labels": 1}
    images = pipeline(**asked, num_images_per_prompt=2, output_type="pt").images
    assert images.shape[:2] == (2, 3)
    assert images.isfinite().all()


def test_to_takes_devices_and_precisions_in_either_form(shapes):
    pipeline = OneStepPipeline.from_pretrained("shapes")
    assert pipeline.to("cpu", torch.bfloat16) is pipeline
    assert (pipeline.device.type, pipeline.dtype) == ("cpu", torch.bfloat16)
    assert pipeline.to(dtype=torch.float32, device="cpu").dtype == torch.float32
    with pytest.raises(SpecError, match=r"torch\.int8"):
        pipeline.to(torch.int8)


def test_a_saved_pipeline_is_a_student_folder(dimo, tmp_path, digits):
    digits.save_pretrained(tmp_path / "saved")
    again = OneStepPipeline.from_pretrained(tmp_path / "saved")
    flags = ("--student", "saved", "--class", 8, "-n", 2, "--seed", 4)
    expected = drawn_by_the_command(dimo, tmp_path, *flags)
    for pipeline in (digits, again):
        images = pipeline(class_labels=8, num_images_per_prompt=2, generator=seeded(4)).images
        assert np.array_equal(as_arrays(images), expected)
    half = OneStepPipeline.from_pretrained("digits", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "saved")]
    assert sizes[0] < 0.6 * sizes[1]
    assert OneStepPipeline.from_pretrained(tmp_path / "half")(class_labels=1).images


def test_a_pushed_student_is_loaded_from_the_hub_into_a_cache_of_its_own(
    fake_hub, tmp_path, digits
):
    for name in ("dimo.json", "model.safetensors"):
        fake_hub.add("someone/digits", name, (BUILTIN["digits"] / name).read_bytes())
    asked = {"revision": COMMIT, "cache_dir": tmp_path / "cache"}
    pipeline = OneStepPipeline.from_pretrained("someone/digits", **asked)
    expected = digits(class_labels=2, generator=seeded(1), output_type="pt").images
    found = pipeline(class_labels=2, generator=seeded(1), output_type="pt").images
    assert torch.equal(found, expected)
    assert (tmp_path / "cache" / "models--someone--digits").is_dir()
    before = fake_hub.downloads()
    OneStepPipeline.from_pretrained("someone/digits", **asked, local_files_only=True)
    assert fake_hub.downloads() == before
    with pytest.raises(MissingError, match="local_files_only"):
        OneStepPipeline.from_pretrained("someone/digits", local_files_only=True)


def test_the_text_encoder_is_looked_for_in_the_same_cache(fake_hub, golden, tmp_path, monkeypatch):
    folder = golden_student("amused-256", fake_hub, golden, tmp_path / "student")
    place = tmp_path / "cache"
    pipeline = OneStepPipeline.from_pretrained(folder, cache_dir=place)
    assert pipeline(PROMPTS[0]).images
    assert list(place.rglob("text_encoder/model.safetensors"))


def test_a_gated_student_is_loaded_with_a_token(fake_hub):
    for name in ("dimo.json", "model.safetensors"):
        fake_hub.add("someone/digits", name, (BUILTIN["digits"] / name).read_bytes())
    fake_hub.gated.add("someone/digits")
    with pytest.raises(MissingError, match="gated"):
        OneStepPipeline.from_pretrained("someone/digits")
    assert OneStepPipeline.from_pretrained("someone/digits", token="hf_right")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": "a fox"}, "takes classes, not prompts"),
        ({}, "no `class_labels`"),
        ({"class_labels": 10}, "`class_labels` is 10"),
        ({"class_labels": "tree"}, "no class `tree`"),
        ({"class_labels": []}, "`class_labels` is empty"),
        ({"class_labels": 1, "negative_prompt": "blurry"}, "it draws without the guidance"),
        ({"class_labels": 1, "num_inference_steps": 4}, "in 1 step, not in 4"),
        ({"class_labels": 1, "guidance_scale": 7.5}, "guidance built in"),
        ({"class_labels": 1, "output_type": "jpg"}, "'jpg'"),
        ({"class_labels": 1, "num_images_per_prompt": 0}, "at least 1"),
        ({"class_labels": 1, "temperature": 0.0}, "`temperature` is 0"),
        ({"class_labels": 1, "top_k": -1}, "`top_k` is -1"),
        ({"class_labels": 1, "generator": []}, "0 generators for 1 images"),
        ({"class_labels": 1, "callback_on_step_end": print,
          "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "prompt_embeds"),
    ],
)  # fmt: skip
def test_what_a_student_cannot_do_is_refused_in_a_sentence(digits, asked, words):
    with pytest.raises(SpecError, match=words):
        digits(**asked)


def test_a_text_student_takes_no_classes(shapes):
    with pytest.raises(SpecError, match="takes prompts, not classes"):
        shapes(class_labels=3)


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("digits", {"variant": "fp16"}, "`variant` means nothing"),
        ("digits", {"revision": "main"}, "no Hub id"),
        ("a/b@main", {"revision": "main"}, "names a revision already"),
        ("digits", {"dtype": torch.float64}, "float64"),
    ],
)
def test_a_wrong_way_of_loading_is_refused_in_a_sentence(name, asked, words):
    with pytest.raises(SpecError, match=words):
        OneStepPipeline.from_pretrained(name, **asked)


def test_what_makes_no_sense_for_one_pass_is_refused(digits, tmp_path):
    with pytest.raises(SpecError, match="nothing to offload"):
        digits.enable_model_cpu_offload()
    with pytest.raises(SpecError, match="safetensors"):
        digits.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(SpecError, match="does not push itself") as caught:
        digits.push_to_hub("someone/digits")
    assert "dimo push" in caught.value.__notes__[0]  # a traceback shows the hint


def test_it_is_a_diffusion_pipeline(digits):
    from diffusers import DiffusionPipeline

    assert isinstance(digits, DiffusionPipeline)
    assert type(digits)(**digits.components)(class_labels=1).images


def test_importing_dimo_imports_no_torch():
    code = (
        "import sys, dimo_cli\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
        "try:\n    dimo_cli.nothing\n"
        "except AttributeError as error:\n    assert 'nothing' in str(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_compiled_pipeline_draws_the_same_but_for_a_few_tokens(digits):
    compiled = OneStepPipeline.from_pretrained("digits").compile()
    asked = {"class_labels": [3] * 4, "output_type": "latent"}
    found = compiled(**asked, generator=seeded(0)).images
    expected = digits(**asked, generator=seeded(0)).images
    assert (found == expected).float().mean() > 0.95


@pytest.mark.gpu
def test_on_a_gpu_a_generator_of_the_cpu_starts_from_the_same_noise(digits):
    moved = OneStepPipeline.from_pretrained("digits").to("cuda")
    asked = {"class_labels": [3] * 4, "output_type": "latent"}
    found = moved(**asked, generator=seeded(0)).images
    expected = digits(**asked, generator=seeded(0)).images
    assert (found.cpu() == expected).float().mean() > 0.9
