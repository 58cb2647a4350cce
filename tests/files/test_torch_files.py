"""Files of torch: what a state dict is made of is read, and nothing that makes more than it has."""

import collections
import io
import os
import pickle
import random
import struct
import tarfile
import warnings
import zipfile
from contextlib import suppress

import pytest
import torch

from dimo_cli.errors import SpecError
from dimo_cli.files.torch_files import load_torch
from dimo_cli.files.untrusted import Untrusted
from dimo_cli.hub.weights import read_pickle

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])


def everything():
    """What checkpoints of torch hold, dimo's own among them."""
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    version, words, gauss = random.getstate()
    return {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": [torch.get_rng_state(), [version, list(words), gauss]],
        "tied": [torch.ones(5)] * 3,
        "view": torch.arange(12.0).view(3, 4).t()[1:, ::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "kinds": [torch.zeros(2, dtype=getattr(torch, kind)) for kind in KINDS],
        "shapes": [torch.tensor(3.0), torch.zeros(0, 3), torch.Size([1, 2])],
        "plain": (None, True, -1, 2**40, 1e300, "é", {1, 2}, torch.float16),
        "milestones": collections.Counter({30: 1}),
        "device": torch.device("cpu"),
    }


KINDS = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@FORMATS
@pytest.mark.parametrize("mapped", [True, False])
def test_what_checkpoints_hold_is_read(tmp_path, new, mapped):
    content = everything()
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = load_torch(tmp_path / "a.pt", mapped=mapped)
    assert found.keys() == content.keys()
    assert found["plain"] == content["plain"]
    assert found["random"][1] == content["random"][1]
    assert torch.equal(found["view"], content["view"])
    assert [tensor.dtype for tensor in found["kinds"]] == [t.dtype for t in content["kinds"]]
    assert found["model"]._metadata == content["model"]._metadata


def test_kinds_of_numbers_without_a_storage_of_their_own_are_read(tmp_path):
    content = {kind: torch.zeros(3, dtype=getattr(torch, kind)) for kind in ("uint16", "uint64")}
    torch.save(content, tmp_path / "a.pt")
    assert load_torch(tmp_path / "a.pt")["uint64"].dtype == torch.uint64


def test_pairs_of_old_pythons_are_read(tmp_path):
    pairs = as_zip(
        tmp_path, b"\x80\x02ccollections\nOrderedDict\n](](X\x01\x00\x00\x00aK\x01ee\x85R."
    )
    assert load_torch(pairs) == {"a": 1}


class Calls:
    """An object that is unpickled by a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def as_zip(folder, program):
    """A file of today's format with another program."""
    path = folder / "hostile.pt"
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer)
    with zipfile.ZipFile(buffer) as sound, zipfile.ZipFile(path, "w") as archive:
        for name in sound.namelist():
            is_program = name.endswith("data.pkl")
            archive.writestr(name, program if is_program else sound.read(name))
    return path


def as_old(folder, program, keys=()):
    """A file of the old format with another program."""
    path = folder / "hostile.pt"
    parts = [pickle.dumps(part, 2) for part in (torch.serialization.MAGIC_NUMBER, 1001, {})]
    path.write_bytes(b"".join([*parts, program, pickle.dumps(list(keys), 2)]))
    return path


WRITERS = pytest.mark.parametrize("write", [as_zip, as_old], ids=["zip", "old"])


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))


def tensor_of(numbers, shape, strides, start=0, key="0"):
    """The program of one tensor, as text of its own making."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if value == "the storage":
                about = ("storage", torch.FloatStorage, key, "cpu", numbers)
                return about if self.zipped else (*about, None)
            return None

    def program(zipped):
        buffer = io.BytesIO()
        pickler = Pickler(buffer, 2)
        pickler.zipped = zipped
        rebuild = torch._utils._rebuild_tensor_v2
        arguments = ("the storage", start, shape, strides, False, collections.OrderedDict())
        pickler.dump({"a": Calls(rebuild, arguments)})
        return buffer.getvalue()

    return program


GIB = 2**30
BOMBS = {
    "a bytearray of a length": Calls(bytearray, (8 * GIB,)),
    "a program": Calls(os.system, ("echo ran",)),
    "a tensor without a storage": Calls(
        torch._utils._rebuild_meta_tensor_no_storage, (torch.float32, (GIB,), (1,), False)
    ),
    "a tensor of a length": Calls(torch.Tensor, (GIB,)),
    "bytes by a codec": b"bytes",
    "a set by a call within": [Calls(bytearray, (n,)) for n in range(3)],
}


@WRITERS
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_what_no_state_dict_needs_is_refused_unread(tmp_path, write, bomb, never_loaded):
    path = write(tmp_path, pickle.dumps({"a": bomb}, 2))
    with pytest.raises(Untrusted, match="objects other than tensors"):
        load_torch(path)


CLAIMS = {
    "a storage larger than the file": (GIB, (4,), (1,), 0),
    "a tensor larger than its storage": (4, (GIB,), (1,), 0),
    "one number a billion times": (4, (GIB,), (0,), 0),
    "strides beyond the storage": (4, (2, 2), (2**40, 1), 0),
    "a start beyond the storage": (4, (1,), (1,), 2**40),
    "a shape below zero": (4, (-4,), (1,), 0),
    "more sides than strides": (4, (2, 2), (1,), 0),
    "a hundred sides": (4, (1,) * 100, (1,) * 100, 0),
    "a storage below zero": (-4, (1,), (1,), 0),
}


@WRITERS
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_tensor_that_claims_more_than_the_file_has_is_refused_unread(
    tmp_path, write, claim, never_loaded
):
    program = tensor_of(*claim)(zipped=write is as_zip)
    with pytest.raises(Untrusted, match=r"claims|no possible shape"):
        load_torch(write(tmp_path, program, *([["0"]] if write is as_old else [])))


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


PROGRAMS = {
    "another opcode": pickle.dumps({"a": b"bytes"}, 4),
    "a tuple of tuples as a key": b"\x80\x02}))\x86q\x00h\x00h\x00\x86K\x01s.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a name as a function": b"\x80\x02ctorch\nFloatStorage\nK\x01\x85R.",
    "another state of a dictionary": b"\x80\x02ccollections\nOrderedDict\n)R}"
    + text(b"items")
    + b"K\x01sb.",
    "an end before its beginning": b"\x80\x02.",
    "a mark that nothing set": b"\x80\x02u.",
    "a memory that is empty": b"\x80\x02h\x05.",
    "another protocol": b"\x80\x04}.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "a storage that is none": b"\x80\x02K\x05Q.",
    "one list as thousands of sets": b"\x80\x02](" + b"K\x01" * 3000 + b"eq\x000"
    + b"cbuiltins\nset\nh\x00\x85R0" * 3000 + b"N.",
}  # fmt: skip


@WRITERS
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_of_tricks_is_refused_unread(tmp_path, write, program, never_loaded):
    with pytest.raises(Untrusted):
        load_torch(write(tmp_path, program))


def test_a_tensor_under_thousands_of_names_is_refused(tmp_path):
    """Each name becomes numbers of its own when the weights are converted."""
    shared = torch.zeros(10_000)
    torch.save({str(name): shared for name in range(1000)}, tmp_path / "a.pt")
    with pytest.raises(Untrusted, match=r"40,000,000 bytes of tensors and has 40,000"):
        load_torch(tmp_path / "a.pt")


@pytest.mark.parametrize("evil_first", [True, False])
@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL"])
def test_of_two_programs_the_one_that_torch_runs_is_looked_at(tmp_path, evil_first, name):
    evil, good = pickle.dumps({"a": Calls(bytearray, (8,))}, 2), pickle.dumps({"a": 1}, 2)
    path = as_zip(tmp_path, evil if evil_first else good)
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].split("/")[0]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # that a name is there twice
        archive.writestr(f"{folder}/{name}", good if evil_first else evil)
    with suppress(Untrusted):
        assert load_torch(path) == {"a": 1}


def test_a_tar_archive_is_refused_unread(tmp_path, never_loaded):
    with tarfile.open(tmp_path / "a.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(Untrusted, match="a tar archive"):
        load_torch(tmp_path / "a.pt")


def test_a_pipe_is_no_file_of_torch(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(SpecError, match="is a pipe, not a file"):
        read_pickle(tmp_path / "a.pt")
