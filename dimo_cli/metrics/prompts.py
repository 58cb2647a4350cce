"""The prompt sets of the benchmarks: read strictly, so that a score is of the right prompts.

HPSv2 and MJHQ-30K are pulled from the Hub; COCO-30K and GenEval are files that a person fetches
from the projects that made them; the sets of `shapes` and `emoji` are drawn by their own worlds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dimo_cli.errors import MissingError, SpecError, did_you_mean
from dimo_cli.files.lines import lines_of
from dimo_cli.files.reading import MOST_PROMPTS, read_bytes
from dimo_cli.files.untrusted import first_problem
from dimo_cli.hub.published import HubFile
from dimo_cli.metrics import emoji, shapes
from dimo_cli.metrics.geneval_requests import TAGS, Request

if TYPE_CHECKING:
    from dimo_cli.hub.store import HubStore

COCO_LINES = 30_000
STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS_PER_STYLE = 800
CATEGORIES = (
    *("animals", "art", "fashion", "food", "indoor"),
    *("landscape", "logo", "people", "plants", "vehicles"),
)
PROMPTS_PER_CATEGORY = 3000
GENEVAL_COUNTS = dict(zip(TAGS, (80, 99, 80, 94, 100, 100), strict=True))
GENEVAL_IMAGES = 4
PER_TASK = 50  # prompts of the embedded worlds

HPS_FILES = {
    style: HubFile("zhwang/HPDv2", f"benchmark/{style}.json", repo_type="dataset")
    for style in STYLES
}
MJHQ_FILE = HubFile("playgroundai/MJHQ-30K", "meta_data.json", repo_type="dataset")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts in the order in which a benchmark numbers them."""

    name: str
    prompts: tuple[str, ...]
    tags: tuple[str, ...] = ()
    """The style, category or task of each prompt; empty where the set has none."""
    keys: tuple[str, ...] = ()
    """What each prompt's image is called in the layout of the benchmark, without an ending."""
    requests: tuple[Any, ...] = ()
    """What each prompt asks for, where rules can tell: GenEval's metadata, scenes of a world."""
    images_per_prompt: int = 1

    @property
    def num_images(self) -> int:
        """How many images the whole benchmark takes."""
        return len(self.prompts) * self.images_per_prompt

    @property
    def sha256(self) -> str:
        """Hash of all that is asked for, the same wherever and in what format it was read."""
        rows = [self.prompts, self.tags, [str(request) for request in self.requests]]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def of_all_tasks(self, images: int | None) -> PromptSet:
        """As many images of the benchmark, of each task as many as of any other."""
        tasks = tuple(dict.fromkeys(self.tags))
        if not self.requests or images is None or images >= self.num_images:
            return self
        if images < len(tasks):
            raise SpecError(
                f"`{self.name}` has {len(tasks)} tasks and its overall score is their mean, so "
                f"{images} {'image is' if images == 1 else 'images are'} too few.",
                f"Ask for at least {len(tasks)}, or leave out `-n` for all {self.num_images:,}.",
            )
        by_task = [[n for n, tag in enumerate(self.tags) if tag == task] for task in tasks]
        turns = [n for turn in zip_longest(*by_task) for n in turn if n is not None]
        each = self.images_per_prompt
        fits_whole = images % each == 0 and images >= each * len(tasks)
        if not fits_whole and images <= len(self.prompts):
            each = 1
        kept = sorted(turns[: math.ceil(images / each)])  # the last one may have fewer images
        return PromptSet(
            self.name,
            tuple(self.prompts[n] for n in kept),
            tuple(self.tags[n] for n in kept),
            tuple(self.keys[n] for n in kept),
            tuple(self.requests[n] for n in kept),
            each,
        )

    def prompt_number(self, image: int) -> int:
        """Which prompt an image is of: the images of one prompt follow each other."""
        if not 0 <= image < self.num_images:
            raise SpecError(f"`{self.name}` has {self.num_images} images, so none is {image}.")
        return image // self.images_per_prompt

    def prompts_of(self, first: int, count: int) -> tuple[str, ...]:
        """The prompts of consecutive images."""
        return tuple(self.prompts[self.prompt_number(first + i)] for i in range(count))

    def check(self, first: int, prompts: Sequence[str]) -> None:
        """Refuse consecutive images that were made for other prompts than those of this set."""
        for image, prompt in enumerate(prompts, start=first):
            number = self.prompt_number(image)
            if prompt != self.prompts[number]:
                raise SpecError(
                    f"Prompt {number} of `{self.name}` is {self.prompts[number]!r}, but image "
                    f"{image} was made for {prompt!r}.",
                    "Generate the images from the same prompts, in their order.",
                )

    def file_stem(self, image: int) -> str:
        """Where the benchmark's own tool looks for an image, without its ending."""
        number = self.prompt_number(image)
        if self.images_per_prompt == 1:
            return self.keys[number]
        return f"{self.keys[number]}/samples/{image % self.images_per_prompt:04d}"

    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two scores to be of the same prompts."""
        return {"prompt_set": self.name, "prompt_set_sha256": self.sha256}


def numbered(count: int, folder: str = "") -> tuple[str, ...]:
    """Keys 00000, 00001, ... within a folder."""
    return tuple(f"{folder}{number:05d}" for number in range(count))


def read_text(path: Path) -> str:
    """A whole text file; bytes that are no UTF-8 are refused with their line."""
    if not path.exists():
        raise MissingError(f"There is no file `{path}`.", "Check the path of the prompts.")
    content = read_bytes(path, MOST_PROMPTS)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"`{path}`, line {line}: not UTF-8 (byte {content[error.start]:#04x}).",
            "Save the file as UTF-8.",
        ) from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; only real line ends part them, and none may be blank."""
    lines = lines_of(read_text(path)) or [""]  # an empty file is one blank line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise SpecError(
                f"`{path}`, line {number}: blank.",
                "Images belong to prompts by number, so no line may be without one.",
            )
    return [line.strip() for line in lines]


def read_json(path: Path) -> Any:
    """A JSON document."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise SpecError(f"`{path}`, line {error.lineno}: not JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"`{path}` cannot be read as JSON: {error}.") from None


def check_count(path: Path, what: str, found: int, expected: int) -> None:
    """Refuse a set that is not whole."""
    if found != expected:
        raise SpecError(
            f"`{path}` has {found:,} {what}, not {expected:,}.",
            "Use the complete file of the benchmark.",
        )


def check_prompt(where: str, prompt: object) -> str:
    """A prompt must be text, and not blank."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise SpecError(f"{where}: the prompt is {prompt!r}, which is not a text.")
    return prompt


def read_coco(path: Path) -> PromptSet:
    """COCO-30K: one caption a line, in the order of the images."""
    captions = read_lines(path)
    check_count(path, "captions", len(captions), COCO_LINES)
    return PromptSet("coco-30k", tuple(captions), keys=numbered(COCO_LINES))


def read_mjhq(path: Path) -> PromptSet:
    """MJHQ-30K: an object of `id: {category, prompt}`; images are called `category/id`."""
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise SpecError(f"`{path}` is a {type(rows).__name__}, not an object of ids.")
    for name, row in rows.items():
        where = f"`{path}`, entry `{name}`"
        if not isinstance(row, dict) or not {"category", "prompt"} <= row.keys():
            raise SpecError(f"{where}: it must be an object with `category` and `prompt`.")
        if row["category"] not in CATEGORIES:
            raise SpecError(
                f"{where}: {row['category']!r} is not a category.",
                did_you_mean(str(row["category"]), CATEGORIES),
            )
        check_prompt(where, row["prompt"])
    counts = Counter(row["category"] for row in rows.values())
    for category in CATEGORIES:
        check_count(path, f"prompts of `{category}`", counts[category], PROMPTS_PER_CATEGORY)
    return PromptSet(
        "mjhq-30k",
        tuple(row["prompt"] for row in rows.values()),
        tuple(row["category"] for row in rows.values()),
        tuple(f"{row['category']}/{name}" for name, row in rows.items()),
    )


def read_hps(paths: dict[str, Path]) -> PromptSet:
    """HPSv2: a list of 800 prompts for each of four styles."""
    prompts: list[str] = []
    for style in STYLES:
        rows = read_json(paths[style])
        if not isinstance(rows, list):
            raise SpecError(f"`{paths[style]}` is a {type(rows).__name__}, not a list of prompts.")
        check_count(paths[style], "prompts", len(rows), PROMPTS_PER_STYLE)
        for number, prompt in enumerate(rows):
            prompts.append(check_prompt(f"`{paths[style]}`, entry {number}", prompt))
    return PromptSet(
        "hpsv2",
        tuple(prompts),
        tuple(style for style in STYLES for _ in range(PROMPTS_PER_STYLE)),
        tuple(key for style in STYLES for key in numbered(PROMPTS_PER_STYLE, f"{style}/")),
    )


def hps_paths(folder: Path) -> dict[str, Path]:
    """The four files in a folder of the user, or in its `benchmark/`."""
    if not folder.is_dir():
        raise MissingError(f"There is no folder `{folder}`.", "Check the path of the prompts.")
    inner = folder / "benchmark" if (folder / "benchmark").is_dir() else folder
    return {style: inner / f"{style}.json" for style in STYLES}


def read_request(where: str, text: str) -> Request:
    """One line of GenEval's metadata."""
    try:
        return Request.model_validate_json(text)
    except ValidationError as error:
        field, message = first_problem(error)
        message = message.removeprefix("Value error, ")
        raise SpecError(f"{where}: {f'`{field}`: ' if field else ''}{message}.") from None


def geneval_set(requests: Sequence[Request], keys: Sequence[str], images: int) -> PromptSet:
    """Any selection of GenEval's prompts."""
    return PromptSet(
        "geneval",
        tuple(request.prompt for request in requests),
        tuple(request.tag for request in requests),
        tuple(keys),
        tuple(requests),
        images,
    )


def read_geneval(path: Path) -> PromptSet:
    """GenEval: a JSON object a line, 553 of them, four images each."""
    lines = read_lines(path)
    requests = [read_request(f"`{path}`, line {n}", line) for n, line in enumerate(lines, 1)]
    counts = Counter[str](request.tag for request in requests)
    for tag, expected in GENEVAL_COUNTS.items():
        check_count(path, f"prompts of `{tag}`", counts[tag], expected)
    return geneval_set(requests, numbered(len(requests)), GENEVAL_IMAGES)


def drawn_by_world(name: str) -> PromptSet:
    """The benchmark of an embedded world: as many prompts of each task, the same every time."""
    tasks = BENCHMARKS[name](PER_TASK)
    return PromptSet(
        name,
        tuple(task.prompt for task in tasks),
        tuple(task.name for task in tasks),
        numbered(len(tasks)),
        tuple(task.scene for task in tasks),
    )


WHERE_TO_GET = {
    "coco-30k": "`captions_coco14_test.txt` of DMD2 (https://github.com/tianweiy/DMD2)",
    "geneval": "`prompts/evaluation_metadata.jsonl` of https://github.com/djghosh13/geneval",
}
FROM_HUB: dict[str, Callable[[HubStore], PromptSet]] = {
    "hpsv2": lambda store: read_hps({s: store.locate(f).path for s, f in HPS_FILES.items()}),
    "mjhq-30k": lambda store: read_mjhq(store.locate(MJHQ_FILE).path),
}
FROM_DISK: dict[str, Callable[[Path], PromptSet]] = {
    "coco-30k": read_coco,
    "geneval": read_geneval,
    "hpsv2": lambda folder: read_hps(hps_paths(folder)),
    "mjhq-30k": read_mjhq,
}
BENCHMARKS: dict[str, Callable[[int], Sequence[shapes.Task | emoji.Task]]] = {
    "shapes": shapes.benchmark,
    "emoji": emoji.benchmark,
}
PROMPT_SETS = (*FROM_DISK, *BENCHMARKS)


def load_prompts(name: str, store: HubStore, path: Path | None = None) -> PromptSet:
    """A prompt set by its name, from the user's file (folder for HPSv2) or from the Hub."""
    if name not in PROMPT_SETS:
        raise SpecError(f"{name!r} is not a known prompt set.", did_you_mean(name, PROMPT_SETS))
    if name in BENCHMARKS:
        if path is not None:
            raise SpecError(f"`{name}` draws its own prompts; it reads none from `{path}`.")
        return drawn_by_world(name)
    if path is not None:
        return FROM_DISK[name](path)
    if name in FROM_HUB:
        return FROM_HUB[name](store)
    raise MissingError(
        f"The prompts of `{name}` are not on the Hub.",
        f"Download {WHERE_TO_GET[name]} and name that file.",
    )
