"""Turns a student into half precision, as the ones that ship in the package are.

python examples/ship_student.py runs/shapes --out dimo_cli/teachers/builtin/shapes-student
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from dimo_cli.hub import file_sha256
from dimo_cli.students import MANIFEST, WEIGHTS, find_student


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    source = find_student(options.student)
    shutil.copytree(source, options.out, dirs_exist_ok=True)
    weights = load_file(source / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in weights.items()}, options.out / WEIGHTS)
    (options.out / WEIGHTS).chmod(0o644)
    before, after = file_sha256(source / WEIGHTS), file_sha256(options.out / WEIGHTS)
    for name in (MANIFEST, "README.md"):
        path = options.out / name
        path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    assert json.loads((options.out / MANIFEST).read_text())["weights_sha256"] == after


if __name__ == "__main__":
    main()
