"""Broken files made of sound ones, and text as nobody should write it."""

import json
import struct
import zipfile
from io import BytesIO

from hypothesis import strategies as st

HUGE = (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([*HUGE, -1, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
)
WORDS = st.text(max_size=12)
NASTY = st.sampled_from(
    ["", " ", "\0", "\ud800", "../../etc", "/", "~", "*", "&a", "*a", "!!python/object:os.system x",
     "null", "yes", "1e400", "nan", ".inf", "0x", "[" * 2000, "{" * 2000, "]", "a: b: c", "|", ">",
     "=", "..", ".", "\n", "\t", "'", '"', "${HOME}", "%s", "{0}", "[bold]", "[/]", "é" * 50]
)  # fmt: skip
TEXT = st.one_of(WORDS, NASTY, NUMBERS.map(str))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def broken(draw, sound):
    """Sound bytes with some damage: cut, flipped, overwritten with large numbers, spliced."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "flip", "number", "insert", "drop", "repeat", "front"])):
            case "cut":
                del data[at:]
            case "flip" if data:
                data[at] ^= draw(st.integers(1, 255))
            case "number":
                number, width = draw(st.sampled_from(HUGE)), draw(st.sampled_from("BHIQ"))
                size = struct.calcsize(width)
                data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "drop":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "front":  # headers are where files claim things
                near = draw(st.integers(0, min(200, max(0, len(data) - 1))))
                data[near : near + 1] = draw(st.binary(min_size=1, max_size=4))
    return bytes(data)


@st.composite
def lying_json(draw, document):
    """A sound document with values replaced, keys dropped or added, anywhere in it."""
    found = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        node = found
        while isinstance(node, (dict, list)) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            match draw(st.sampled_from(["replace", "drop", "add"])):
                case "replace":
                    node[key] = draw(JSON)
                case "drop":
                    del node[key]
                case "add" if isinstance(node, dict):
                    node[draw(WORDS)] = draw(JSON)
            break
    return found


def text_of(document):
    """JSON as Python writes it, with NaN and lone surrogates."""
    return json.dumps(document, ensure_ascii=True, allow_nan=True)


@st.composite
def lying_safetensors(draw, sound):
    """A safetensors file whose header was edited: offsets, shapes, types, names."""
    size = int.from_bytes(sound[:8], "little")
    header = draw(lying_json(json.loads(sound[8 : 8 + size])))
    text = text_of(header).encode()
    told = draw(st.sampled_from([len(text), len(text) + 1, len(text) - 1, *HUGE]))
    if draw(st.booleans()):
        told = len(text)
    return (told % 2**64).to_bytes(8, "little") + text + sound[8 + size :]


@st.composite
def npy_files(draw):
    """A .npy file: a header that may lie, and some bytes."""
    shape = draw(st.lists(st.one_of(st.integers(-2, 9), st.sampled_from(HUGE)), max_size=5))
    kind = draw(st.sampled_from(["<f8", "|u1", "<f4", "|O", "<U9", "|S3", "<i8", "|b1", "<c16",
                                 "<M8[s]", "|V99999999999", "x", "<f8,<f8", ">f8"]))  # fmt: skip
    header = (
        f"{{'descr': {kind!r}, 'fortran_order': {draw(st.booleans())}, 'shape': {tuple(shape)}}}"
    )
    header = draw(st.sampled_from([header, header, header, "{}", header[:-5], "(" * 500, "1"]))
    content = draw(st.binary(max_size=200))
    magic = b"\x93NUMPY" + bytes(draw(st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])))
    told = draw(st.sampled_from([len(header)] * 4 + [0, 60_000]))
    length = struct.pack("<H" if magic[6] == 1 else "<I", told)
    return magic + length + header.encode() + content


def zipped(members, packing=zipfile.ZIP_DEFLATED):
    """A zip archive of named bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()
