"""The folders and results of GenEval's own tool, for scores by its own detector.

`NNNNN/metadata.jsonl` says what prompt N asks for, `NNNNN/samples/NNNN.png` are its images. The
tool writes one line of JSON for each image, which `read_results` turns into dimo's results.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from dimo_cli.data.arrays import Batch
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.untrusted import first_problem
from dimo_cli.files.writing import check_empty, file_sha256
from dimo_cli.metrics.clip_score import to_picture
from dimo_cli.metrics.geneval import summarize
from dimo_cli.metrics.geneval_requests import TAGS, Request, Tag
from dimo_cli.metrics.prompts import PromptSet, geneval_set, read_lines, read_request, read_text
from dimo_cli.metrics.protocol import Result
from dimo_cli.specs.base import Spec

METADATA, SAMPLES = "metadata.jsonl", "samples"


def metadata_line(request: Request) -> str:
    """A request as the benchmark writes it."""
    return json.dumps(request.model_dump(mode="json", by_alias=True, exclude_unset=True))


def start_folder(folder: Path, prompts: PromptSet) -> None:
    """Lay out an empty folder: a subfolder for every prompt, with its metadata."""
    if prompts.name != "geneval":
        raise SpecError(f"The folders of GenEval are of its own prompts, not of `{prompts.name}`.")
    check_empty(folder)
    for key, request in zip(prompts.keys, prompts.requests, strict=True):
        (folder / key / SAMPLES).mkdir(parents=True)
        (folder / key / METADATA).write_text(metadata_line(request) + "\n", encoding="utf-8")


def save_batch(folder: Path, prompts: PromptSet, batch: Batch) -> None:
    """Write a batch of images to their places, each of them whole or not at all."""
    for number, image in enumerate(batch.images.cpu(), start=batch.first):
        path = folder / f"{prompts.file_stem(number)}.png"
        unfinished = path.with_suffix(".part")
        to_picture(image).save(unfinished, format="png")
        unfinished.replace(path)


def is_geneval_folder(path: Path) -> bool:
    """Whether a folder has the benchmark's layout."""
    return path.is_dir() and any(path.glob(f"[0-9]*/{METADATA}"))


def read_folder(folder: Path) -> tuple[PromptSet, list[Path]]:
    """The prompts of a folder in the benchmark's layout, and its images in their order."""
    if not folder.is_dir():
        raise MissingError(f"There is no folder `{folder}`.", "Check the path of the images.")
    inner = sorted((p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()), key=number)
    if not inner:
        raise SpecError(
            f"`{folder}` has no subfolder with a number for a name, such as `00000`.",
            f"GenEval's layout is NNNNN/{METADATA} and NNNNN/{SAMPLES}/NNNN.png.",
        )
    requests = [read_metadata(path / METADATA) for path in inner]
    images = [samples_in(path / SAMPLES) for path in inner]
    for path, found in zip(inner, images, strict=True):
        if len(found) != len(images[0]):
            raise SpecError(
                f"`{path}` has {len(found)} images, `{inner[0]}` has {len(images[0])}.",
                "Every prompt must have as many images as the others.",
            )
    prompts = geneval_set(requests, [path.name for path in inner], len(images[0]))
    return prompts, [path for found in images for path in found]


def number(path: Path) -> int:
    """The number that a file or folder is called by."""
    return int(path.stem)


def read_metadata(path: Path) -> Request:
    """The metadata of one prompt; the tool reads one JSON object, on however many lines."""
    return read_request(f"`{path}`", read_text(path))


def samples_in(folder: Path) -> list[Path]:
    """The images of one prompt, in their order."""
    if not folder.is_dir():
        raise MissingError(f"There is no folder `{folder}`.", "Are all images generated?")
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    strangers = [path for path in files if not re.fullmatch(r"\d+\.png", path.name)]
    if strangers:
        raise SpecError(
            f"`{strangers[0]}` is not an image of GenEval's layout.",
            "Images are called 0000.png, 0001.png, ...; move everything else away.",
        )
    if not files:
        raise SpecError(f"`{folder}` is empty.", "Are all images generated?")
    return sorted(files, key=number)


class ResultLine(Spec):
    """One line of the tool's results; what else it notes is not needed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    filename: str
    tag: Tag
    correct: bool = Field(strict=True)
    metadata: str
    """The metadata of the prompt, as a text of JSON."""


def read_results(path: Path) -> list[Result]:
    """GenEval by its own detector, from the results that its tool has written."""
    lines: list[ResultLine] = []
    seen: dict[str, int] = {}
    for n, text in enumerate(read_lines(path), start=1):
        line = read_result_line(f"`{path}`, line {n}", text)
        if line.filename in seen:
            raise SpecError(
                f"`{path}`, line {n}: `{line.filename}` is on line {seen[line.filename]} already."
            )
        seen[line.filename] = n
        lines.append(line)
    protocol: dict[str, Any] = {
        "detector": "the original tool's",
        "results_sha256": file_sha256(path),
    }
    return summarize(
        "geneval",
        TAGS,
        [line.tag for line in lines],
        [line.metadata for line in lines],
        [float(line.correct) for line in lines],
        protocol,
    )


def read_result_line(where: str, text: str) -> ResultLine:
    """One image's verdict, whose tag must be that of its prompt."""
    try:
        line = ResultLine.model_validate_json(text)
    except ValidationError as error:
        field, message = first_problem(error)
        raise SpecError(
            f"{where}: {f'`{field}`: ' if field else ''}{message}.",
            "It must be the results file of GenEval's `evaluate_images.py`.",
        ) from None
    request = read_request(f"{where}, `metadata`", line.metadata)
    if request.tag != line.tag:
        raise SpecError(f"{where}: its tag is {line.tag}, that of its metadata {request.tag}.")
    return line
