"""Files of kilobytes that would take gigabytes: refused before any memory is given."""

import io
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_cli.data.folders import Files, FolderImages, open_images
from dimo_cli.data.images import open_source
from dimo_cli.data.pictures import Header
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.hub.weights import read_pickle
from dimo_cli.metrics.references import read_reference
from dimo_cli.sampling.interpolating import file_tokens
from dimo_cli.students.folder import BUILTIN, load_student
from tests.helpers.pictures import png
from tests.metrics.test_references import Projection
from tests.torture.guards import in_little_memory, in_time

LARGE = 20 * 2**24  # more than is always allowed


def packed_zeros(path, name, size, first=b""):
    """A zip archive with a member of so many zeros, in a thousandth of them."""
    packing = zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(path, "w", packing, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(first)
        for _ in range(size // 2**24):
            member.write(bytes(2**24))
    return path


def npy_header(shape, kind):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "shape", "kind", "read"),
    [
        ("mu.npy", (LARGE // 8,), "<f8", lambda path: read_reference(path, Projection())),
        ("arr_0.npy", (LARGE // 3072, 32, 32, 3), "|u1", open_images),
    ],
    ids=["statistics", "images"],
)
def test_an_npz_that_would_unpack_to_a_thousand_times_its_size(tmp_path, name, shape, kind, read):
    path = packed_zeros(tmp_path / "bomb.npz", name, LARGE, npy_header(shape, kind))
    assert path.stat().st_size < 10 * 2**20
    with in_time(), in_little_memory(300), pytest.raises(SpecError, match="zip bomb"):
        read(path)


def test_a_zip_of_images_with_a_member_of_nothing(tmp_path):
    path = packed_zeros(tmp_path / "images.zip", "0.png", LARGE, png(Image.new("RGB", (8, 8))))
    with in_time(), in_little_memory(300), pytest.raises(SpecError, match="zip bomb"):
        open_images(path)


def test_a_file_of_torch_that_is_compressed(tmp_path):
    torch.save({"a": torch.zeros(2**24)}, tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as sound:
        members = [(info.filename, sound.read(info)) for info in sound.infolist()]
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, content in members:
            bomb.writestr(name, content)
    with in_little_memory(300), pytest.raises(Exception, match="claims to hold"):
        read_pickle(tmp_path / "bomb.pt")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_SPARSE, tarfile.REGTYPE])
def test_an_archive_whose_member_claims_a_terabyte(tmp_path, kind):
    member = tarfile.TarInfo("one/0.txt")
    member.size, member.type = 2**40, kind
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "images.tar").write_bytes(bytes(header) + bytes(2048))
    with in_time(), in_little_memory(300), pytest.raises(DimoError, match=r"no plain \.tar"):
        open_source(str(tmp_path), captions=True)


def test_a_strip_that_would_become_gigabytes_on_its_way_to_a_square(tmp_path):
    (tmp_path / "one").mkdir()
    strip = tmp_path / "one" / "0.png"
    Image.new("L", (60_000, 1)).save(strip)
    with in_time(), in_little_memory(300):
        with pytest.raises(SpecError, match=r"60000 x 1 pixels, too long and narrow"):
            open_source(str(tmp_path), captions=False).image(0, 512)
        with pytest.raises(SpecError, match=r"60000 x 1 pixels, too long and narrow"):
            file_tokens(load_student(BUILTIN["digits"]), strip)


def test_a_picture_of_more_pixels_than_any_sample(tmp_path):
    for number, side in enumerate((9_000, 20_000)):
        picture = tmp_path / f"{number}.png"
        # A header is enough to know it; nobody has to make its pixels.
        content = bytearray(png(Image.new("1", (8, 8))))
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        picture.write_bytes(content)
    with in_time(), in_little_memory(300), pytest.raises(SpecError, match="too many pixels"):
        open_images(tmp_path)


@pytest.mark.parametrize(("side", "at_once"), [(256, 64), (1024, 64), (4096, 21), (8000, 5)])
def test_of_large_images_fewer_are_in_memory(tmp_path, side, at_once):
    images = FolderImages(Files(tmp_path), [], ())
    images.headers = [Header((side, side), "RGB", "PNG")]
    assert images.at_once(64) == at_once


@pytest.mark.parametrize("reader", [open_images, lambda path: open_source(str(path.parent), False)])
def test_names_of_thousands_of_digits_are_no_numbers(tmp_path, reader):
    """Python refuses to read such a number, with an error of its own."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for digit in "12":
            archive.writestr(f"{digit * 5000}.png", png(Image.new("RGB", (8, 8))))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("0.png", png(Image.new("RGB", (8, 8)))), ("0.cls", b"7" * 5000)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(reader(tmp_path / "images.zip")) in (1, 2)


def test_a_published_file_that_claims_more_than_it_has(tmp_path):
    from dimo_cli.hub.published import HubFile, Published
    from dimo_cli.hub.store import HubStore

    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    published = Published((HubFile("owner/name", "model.safetensors"),))
    with in_time(), in_little_memory(300), pytest.raises(MissingError, match="truncated or is not"):
        HubStore(tmp_path).weights(published)
