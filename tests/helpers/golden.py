"""Golden numbers: what other implementations returned, each folder of them packed into a file.

python -m tests.helpers.golden pack FOLDER       writes tests/golden/FOLDER.packed
python -m tests.helpers.golden unpack NAME INTO  writes the files of tests/golden/NAME.packed
"""

import io
import json
import lzma
import os
import sys
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load

HERE = Path(__file__).parents[1] / "golden"
GOLDEN = Path(os.environ.get("DIMO_GOLDEN", HERE)).resolve()
WORD = 4


def packed(folder):
    """The files of a folder, in bytes that are the same whoever packs them.

    First come the first bytes of all numbers, then the second ones: of a float's four bytes all
    but the last are noise, and mixed with it even the last one would be.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)
    planes = np.frombuffer(archive.getvalue(), np.uint8).reshape(-1, WORD).T
    return lzma.compress(planes.tobytes(), preset=9)


@cache
def unpacked(path):
    """The files in a packed one: bytes by name."""
    planes = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(WORD, -1)
    with tarfile.open(fileobj=io.BytesIO(planes.T.tobytes())) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def read_golden(name, root=GOLDEN):
    """The bytes of a golden file that lies in a folder, or else in a packed one."""
    path, (folder, _, inner) = root / name, name.partition("/")
    if not path.exists() and (archive := root / f"{folder}.packed").exists():
        files = unpacked(archive)
        if inner in files:
            return files[inner]
    return path.read_bytes()


def load_golden(name, root=GOLDEN):
    """What a golden file holds: tensors or JSON."""
    content = read_golden(name, root)
    return json.loads(content) if name.endswith(".json") else load(content)


def manifest(name):
    """What the published files of a model hold: names and shapes of the tensors, and settings."""
    return load_golden(f"manifests/{name}.json", HERE)


def main(verb, source, into=None):
    if verb == "pack":
        folder = Path(source)
        (HERE / f"{folder.name}.packed").write_bytes(packed(folder))
        return
    for name, content in unpacked(HERE / f"{source}.packed").items():
        path = Path(into) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
