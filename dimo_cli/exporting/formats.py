"""The files that a program can be in: how they are written, and how they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import patient_file

Texts = Mapping[str, str]
"""What else is in the file, by name: `dimo.json`, and `tokenizer.json` of a text student."""
Runs = Callable[[Tensor, Tensor], Tensor]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # the lowest that has all of it, for the sake of runtimes that are not of today
MOST_BYTES = 2**31 - 2**24  # of one file of protobuf, with room for the graph


def save_pt2(program: ExportedProgram, wanted: str, texts: Texts, file: Path) -> None:
    """Write torch's own format."""
    with patient_file(file) as archive:
        torch.export.save(program, archive, extra_files=dict(texts))


def load_pt2(file: Path) -> Runs:
    """The program of torch's own format."""
    with file.open("rb") as archive:
        loaded: Runs = torch.export.load(archive).module()
    return loaded


def save_onnx(program: ExportedProgram, wanted: str, texts: Texts, file: Path) -> None:
    """Write ONNX, with the weights inside."""
    weights = [*program.state_dict.values(), *program.tensor_constants.values()]
    size = sum(tensor.nbytes for tensor in weights)
    if size > MOST_BYTES:
        raise SpecError(
            f"An ONNX file holds 2 GiB, and this program has {size / 2**30:.1f} GiB of weights.",
            "Export it as a .pt2 file.",
        )
    with redirect_stdout(StringIO()):  # the exporter speaks where results go
        exported = torch.onnx.export(
            program.run_decompositions(decompositions()),
            dynamo=True,
            input_names=["seed", wanted],
            output_names=["image"],
            opset_version=OPSET,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for name, text in texts.items():
        model.metadata_props.add(key=name, value=text)
    file.write_bytes(model.SerializeToString())


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What ONNX has no function for, in terms of what it has one for."""
    aten = torch.ops.aten

    def attention(q: Tensor, k: Tensor, v: Tensor, *others: Any, **options: Any) -> Any:
        """Attention of three dimensions, where ONNX's has four."""
        if q.dim() != 3 or others or options:
            return NotImplemented  # stays as it is
        plain = aten.scaled_dot_product_attention.default
        return plain(q[:, None], k[:, None], v[:, None])[:, 0]

    return {
        aten.scaled_dot_product_attention.default: attention,
        aten.__rshift__.Tensor: aten.bitwise_right_shift.Tensor,
    }


def load_onnx(file: Path) -> Runs:
    """The program of an ONNX file, as onnxruntime runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which it raises too
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def check_onnx() -> None:
    """Refuse ONNX where its packages are not installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingError(
            f"ONNX takes {', '.join(ONNX_PACKAGES)}; not installed: {', '.join(missing)}.",
            "Install them with `pip install 'dimo-cli[onnx]'` or "
            f"`pipx inject dimo-cli {' '.join(missing)}`.",
        )


class Format(NamedTuple):
    """One kind of file."""

    save: Callable[[ExportedProgram, str, Texts, Path], None]
    load: Callable[[Path], Runs]
    check: Callable[[], None]
    """Refuses it where something is missing, before anything is computed."""


FORMATS = {
    ".pt2": Format(save_pt2, load_pt2, lambda: None),
    ".onnx": Format(save_onnx, load_onnx, check_onnx),
}
