"""Resizes to Inception's size: clean-fid's, TensorFlow 1's and PyTorch's."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from dimo_cli.errors import SpecError
from dimo_cli.metrics.resize import RESIZES, SIDE, clean_by_matrices, pil_bicubic, resize_images

SIZES = [(23, 31), (299, 299), (1, 1), (700, 5), (64, 412)]


def noise(height, width, count=3):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("mode", "name", "size", "tolerance"),
    [
        ("clean", "resize_clean_299_stride23", (299, 299), 1e-3),
        ("clean", "resize_clean_w11_h9", (9, 11), 1e-3),
        ("clean", "resize_clean_w29_h37", (37, 29), 1e-3),
        ("legacy_pytorch", "resize_legacy_pytorch_299_stride23", (299, 299), 1e-3),
        ("legacy_tensorflow", "resize_tf1_bilinear_299_stride23", (299, 299), 5e-3),
        ("legacy_tensorflow", "resize_tf1_bilinear_h9_w11", (9, 11), 5e-3),
    ],
)
def test_resizes_are_those_of_the_reference_implementations(golden, mode, name, size, tolerance):
    data = golden("metrics/io.safetensors")
    images = data["resize_input_u8_hwc"].permute(2, 0, 1)[None]
    found = resize_images(images, mode, *size)[0].permute(1, 2, 0)
    stride = int(name.split("stride")[1]) if "stride" in name else 1
    assert (found[::stride, ::stride] - data[name]).abs().max() < tolerance


@pytest.mark.parametrize("size", SIZES)
def test_clean_is_what_clean_fid_does_to_the_bit(size):
    from cleanfid.resize import build_resizer

    images = noise(*size)
    theirs = [build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in images]
    ours = resize_images(images, "clean").permute(0, 2, 3, 1)
    assert torch.equal(ours, torch.stack([torch.from_numpy(image) for image in theirs]))


@pytest.mark.parametrize("size", SIZES)
def test_what_gpus_do_for_clean_is_the_same_to_a_thousandth_of_a_gray_level(size):
    images = noise(*size)
    found = clean_by_matrices(images, SIDE, SIDE)
    assert (found - resize_images(images, "clean")).abs().max() < 1e-3
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.parametrize("size", SIZES)
def test_legacy_pytorch_is_what_clean_fid_does(size):
    from cleanfid.resize import build_resizer

    images = noise(*size)
    theirs = [build_resizer("legacy_pytorch")(image.permute(1, 2, 0).numpy()) for image in images]
    ours = resize_images(images, "legacy_pytorch").permute(0, 2, 3, 1)
    assert (ours - torch.stack([torch.from_numpy(image) for image in theirs])).abs().max() < 1e-3


def test_legacy_tensorflow_takes_the_first_pixel_as_it_is_and_repeats_the_last():
    images = noise(7, 5)
    found = resize_images(images, "legacy_tensorflow", 14, 10)
    assert torch.equal(found[..., ::2, ::2], images.float())
    assert torch.equal(found[..., -1, -1], images[..., -1, -1].float())


def test_no_resize_rounds_and_each_gives_its_own_pixels():
    images = noise(40, 40)
    found = [resize_images(images, mode) for mode in RESIZES]
    for image in found:
        assert image.shape == (3, 3, SIDE, SIDE)
        assert image.dtype == torch.float32
        assert not torch.equal(image, image.round())
    assert (found[0] - found[1]).abs().max() > 1
    assert (found[1] - found[2]).abs().max() > 1


def test_images_of_the_right_size_are_left_alone():
    images = noise(SIDE, SIDE, 1)
    for mode in RESIZES:
        assert (resize_images(images, mode) - images).abs().max() < 1e-3


def test_an_unknown_resize_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match="known resize") as error:
        resize_images(noise(4, 4), "legacy_tensor")
    assert "legacy_tensorflow" in error.value.hint


def test_pictures_are_resized_to_bytes_as_pil_does_it():
    images = noise(60, 33)
    found = pil_bicubic(images, 24)
    for ours, image in zip(found, images, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        theirs = picture.resize((24, 24), Image.Resampling.BICUBIC)
        assert ours.permute(1, 2, 0).numpy().tobytes() == theirs.tobytes()


def test_importing_the_metrics_imports_nothing_of_clean_fid():
    code = (
        "import sys, dimo_cli.metrics.resize, dimo_cli.metrics.references; "
        "print([name for name in sys.modules if name.startswith(('cleanfid', 'requests'))])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "[]"
