"""What is fuzzed with pictures of every format, and with what a few bytes can blow up to."""

import io
import struct
import zlib

from hypothesis import strategies as st

from dimo_cli.data.folders import open_images
from dimo_cli.data.images import open_source
from dimo_cli.data.pictures import Fit, read_header, read_pixels
from dimo_cli.errors import SpecError
from dimo_cli.publishing.preview import read_preview
from dimo_cli.reporting.pictures import embed
from dimo_cli.sampling.interpolating import file_tokens
from dimo_cli.students.folder import BUILTIN, load_student
from tests.helpers.pictures import pictures
from tests.torture.inputs import HUGE, TEXT, broken

SOUND = pictures(1)[0][0]
DIGITS = load_student(BUILTIN["digits"])


def saved(kind, image=SOUND, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FRAMES = [SOUND, SOUND.rotate(90)]
FILES = {
    "a.png": saved("PNG"),
    "b.png": saved("PNG", SOUND.convert("P")),
    "c.png": saved("PNG", SOUND.convert("RGBA")),
    "d.jpg": saved("JPEG"),
    "e.jpg": saved("JPEG", SOUND.convert("CMYK")),
    "f.webp": saved("WEBP"),
    "g.bmp": saved("BMP"),
    "h.tif": saved("TIFF", compression="tiff_lzw"),
    "i.tif": saved("TIFF", SOUND, save_all=True, append_images=FRAMES),
    "j.ppm": saved("PPM"),
    "k.png": saved("GIF", SOUND, save_all=True, append_images=FRAMES),
    "l.png": saved("PNG", SOUND, save_all=True, append_images=FRAMES),
    "m.png": saved("ICO"),
    "n.jpg": saved("JPEG2000"),
}


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content)
    )  # fmt: skip


@st.composite
def png_of_chunks(draw):
    """A PNG whose checksums are right and whose claims are not."""
    width, height = (draw(st.one_of(st.integers(0, 40), st.sampled_from(HUGE))) for _ in "wh")
    depth = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    color = draw(st.sampled_from([0, 2, 3, 4, 5, 6]))
    header = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, color, 0, 0,
                         draw(st.integers(0, 2)))  # fmt: skip
    text = draw(TEXT).encode(errors="replace")
    others = st.sampled_from(
        [b"", chunk(b"PLTE", b"\0\1\2" * 3), chunk(b"tRNS", b"\0"),
         chunk(b"tEXt", b"dimo.conditions\0" + text), chunk(b"tEXt", b"dimo.student\0" + text),
         chunk(b"zTXt", b"dimo.student\0\0" + zlib.compress(bytes(2**21))),
         chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**22))),
         chunk(b"eXIf", text), chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))]
    )  # fmt: skip
    pixels = zlib.compress(bytes(draw(st.sampled_from([0, 100, 2**20]))))
    extra = b"".join(draw(st.lists(others, max_size=3)))
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def images(data, folder):
    """Every reader of pictures: a folder to measure or encode, --init, a preview, a report."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    content = data.draw(st.one_of(st.just(FILES[name]), broken(FILES[name]), png_of_chunks()))
    path = folder / "one" / name
    path.parent.mkdir()
    path.write_bytes(content)
    match data.draw(st.sampled_from(["measure", "crop", "encode", "start", "preview", "report"])):
        case "measure":
            for batch in open_images(path.parent, least=1).batches(2):
                assert batch.images.ndim == 4
        case "crop":
            with path.open("rb") as file:
                if problem := read_header(file, name).problem:
                    raise SpecError(problem)
                file.seek(0)
                try:
                    assert read_pixels(file, name, Fit("adm", 8)).shape == (8, 8, 3)
                except (OSError, ValueError) as error:  # its callers say which file it was
                    raise SpecError("no readable image") from error
        case "encode":
            found = open_source(str(folder), captions=False)
            assert found.image(0, 8).shape == (3, 8, 8)
        case "start":
            assert file_tokens(DIGITS, path).shape[0] == 1
        case "preview":
            read_preview(path)
        case "report":
            embed(path, "a title", "what it shows")


TARGETS = {"images": images}
