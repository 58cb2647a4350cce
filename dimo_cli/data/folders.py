"""Images to be measured: a folder, a zip archive, or an npz file.

What would quietly change a number is refused or reported: damaged files, other bit depths,
transparency, mixed sizes, lossy formats, copies. Headers are read first, so that most mistakes are
known before a network is loaded; pixels are read by threads while the networks look at the batch
before.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from dimo_cli.data.arrays import ArrayImages, Batch, Images
from dimo_cli.data.images import files_below
from dimo_cli.data.pictures import SUFFIXES, Fit, Header, read_header, read_pixels
from dimo_cli.errors import MissingError, SpecError, counted
from dimo_cli.files.lines import decoded, lines_of
from dimo_cli.files.pictures import NOTED, Unfit, is_picture, reason
from dimo_cli.files.png import Pixels
from dimo_cli.files.reading import check_regular
from dimo_cli.files.untrusted import ARCHIVE_ERRORS, check_archive, parse_json

MOST_THREADS, NAMES_SHOWN = 16, 3
MOST_BYTES = 2**30  # of images in memory at once
LISTED, IN_ORDER = "metadata.jsonl", "captions.txt"
CAPTION_KEYS = ("prompt", "text")


def open_images(
    path: Path,
    count: int | None = None,
    fit: Fit | None = None,
    names: Sequence[str] | None = None,
    least: int = 2,
) -> Images:
    """The images at a path, all of them or the first `count`.

    `fit` crops and resizes; without it images of several sizes are refused. `names` are those of a
    folder's images, in their order, where it has pictures that are not of them.
    """
    path = path.expanduser()
    if not path.exists():
        raise MissingError(
            f"There is no folder or file `{path}`.", "Name a folder, a .zip or a .npz of images."
        )
    if path.suffix.lower() == ".npz":
        if fit is not None:
            raise SpecError(
                f"`{path}` cannot be cropped: the images of an npz are used as they are."
            )
        return checked(ArrayImages(path, count=count), path, count, least)
    if path.is_file() and path.suffix.lower() != ".zip":
        raise SpecError(f"`{path}` is a single file.", "Name a folder, a .zip or a .npz of images.")
    files = Files(path) if path.is_dir() else ZippedFiles(path)
    if names is None:
        pictures = (name for name in files.names() if is_picture(name, SUFFIXES))
        names = sorted(pictures, key=natural_order)
    if not names:
        raise SpecError(
            f"`{path}` has no images.", f"Images are files that end in {', '.join(SUFFIXES)}."
        )
    prompts = read_prompts(files, names)
    images = FolderImages(files, names[:count], prompts[:count], fit)
    if fit is None:
        images.check_sizes()
    return checked(images, path, count, least)


def checked(images: Images, path: Path, count: int | None, least: int) -> Images:
    """Refuse too few images."""
    if count is not None and len(images) < count:
        raise SpecError(
            f"`{path}` has {counted(len(images), 'image')}; {count:,} were asked for.",
            "Ask for fewer or make more; numbers of different sample counts do not compare.",
        )
    if len(images) < least:
        raise SpecError(
            f"`{path}` has {counted(len(images), 'image')}; statistics need at least {least}.",
            "Feature distances only start to mean something with some thousands.",
        )
    return images


class Files:
    """The files of a folder and its subfolders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """All names, relative to the folder."""
        return [path.relative_to(self.root).as_posix() for path in files_below(self.root)]

    def open(self, name: str) -> BinaryIO:
        """One of them."""
        check_regular(self.root / name)
        return (self.root / name).open("rb")


class ZippedFiles(Files):
    """The members of a zip archive."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        try:
            self.archive = zipfile.ZipFile(root)
            check_archive(self.archive)
        except ARCHIVE_ERRORS as error:
            raise SpecError(
                f"`{root}` is no readable zip archive: {error}.", "Copy or pack it again."
            ) from error

    def names(self) -> list[str]:
        return [name for name in self.archive.namelist() if name and not name.endswith("/")]

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.archive.read(name))


def natural_order(name: str) -> list[tuple[float, str]]:
    """Sort by leading number, then by name, folder by folder: 9.png comes before 10.png.

    Captions are paired by this order; sorted as plain text, most would get another image's.
    """
    numbers = ((re.match(r"\d{1,300}", part), part) for part in name.split("/"))
    return [(int(found.group()) if found else float("inf"), part) for found, part in numbers]


class FolderImages(Images):
    """The images of a folder or of a zip archive."""

    def __init__(
        self, files: Files, names: Sequence[str], prompts: tuple[str, ...], fit: Fit | None = None
    ) -> None:
        self.files, self.names, self.prompts, self.fit = files, list(names), prompts, fit
        with threads() as pool:
            self.headers = list(pool.map(self._header, self.names))
        self._refuse_problems()
        self.digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.names)

    def _header(self, name: str) -> Header:
        try:
            with self.files.open(name) as file:
                return read_header(file, name)
        except ARCHIVE_ERRORS as error:
            return Header((0, 0), "", "", reason(error))

    def _refuse_problems(self) -> None:
        problems: dict[str, list[str]] = {}
        for name, header in zip(self.names, self.headers, strict=True):
            if header.problem:
                problems.setdefault(header.problem, []).append(name)
        if problems:
            found = "; ".join(f"{shown(names)}: {what}" for what, names in problems.items())
            raise SpecError(
                f"`{self.files.root}` has images that cannot be measured as they are: {found}.",
                "Repair, convert or remove them; nothing is left out silently.",
            )

    def check_sizes(self) -> None:
        """Refuse images of several sizes."""
        sizes = Counter(header.size for header in self.headers)
        if len(sizes) > 1:
            parts = [f"{w}x{h} ({n:,})" for (w, h), n in sizes.most_common(NAMES_SHOWN)]
            raise SpecError(
                f"`{self.files.root}` mixes images of {len(sizes)} sizes: {', '.join(parts)}"
                f"{', ...' if len(sizes) > NAMES_SHOWN else ''}.",
                "Give all of them one size, or measure them with a crop.",
            )

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        indices = range(start, len(self) if stop is None else stop)
        size = self.at_once(size)
        waiting: list[Pixels] = []
        first = start
        for pixels in ahead(self._pixels, indices, 2 * size):
            waiting.append(pixels)
            if len(waiting) == size:
                yield self._batch(waiting, first)
                first, waiting = first + size, []
        if waiting:
            yield self._batch(waiting, first)

    def at_once(self, wanted: int) -> int:
        """How many images may be in memory: fewer than wanted where they are very large."""
        largest = max((3 * width * height for width, height in self._sizes()), default=1)
        return max(1, min(wanted, MOST_BYTES // largest))

    def _sizes(self) -> Iterator[tuple[int, int]]:
        return ((self.fit.size, self.fit.size) if self.fit else h.size for h in self.headers)

    def _pixels(self, index: int) -> Pixels:
        name = self.names[index]
        try:
            with self.files.open(name) as file:
                pixels = read_pixels(file, name, self.fit)
            self._check_size(index, pixels)
        except SpecError:
            raise
        except Exception as error:  # of whichever decoder
            raise SpecError(
                f"`{name}` in `{self.files.root}`: {reason(error)}.",
                "Make it again or remove it; nothing is left out silently.",
            ) from error
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
        digest.update(str(pixels.shape).encode())
        self.digests[index] = digest.digest()
        return pixels

    def _check_size(self, index: int, pixels: Pixels) -> None:
        """Refuse a picture that is not of the size its header says, by which it was let in."""
        width, height = self.headers[index].size
        if self.fit is None and pixels.shape[:2] != (height, width):
            raise Unfit("EXIF data behind its pixels turns it on its side")

    def _batch(self, pixels: Sequence[Pixels], first: int) -> Batch:
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return Batch(images, first, self.prompts[first : first + len(pixels)])

    def notes(self) -> list[str]:
        notes = []
        formats = Counter(header.format for header in self.headers)
        if len(formats) > 1:
            parts = ", ".join(f"{count:,} {name}" for name, count in formats.most_common())
            notes.append(f"The images are of several formats: {parts}.")
        if lossy := formats["JPEG"]:
            notes.append(
                f"{lossy:,} of {len(self):,} images are JPEG files, whose artifacts change every "
                "distance; PNG keeps images as they were made."
            )
        modes = Counter(NOTED[header.mode] for header in self.headers if header.mode in NOTED)
        notes += [f"{n:,} {what} images were converted to RGB." for what, n in modes.items()]
        if self.fit and (sizes := len({header.size for header in self.headers})) > 1:
            notes.append(f"The images had {sizes} sizes and were brought to one: {self.fit.note}.")
        if self.fit and (small := sum(min(h.size) < self.fit.size for h in self.headers)):
            notes.append(f"{small:,} images were smaller than {self.fit.size} and were enlarged.")
        if copies := len(self.digests) - len(set(self.digests.values())):
            notes.append(f"{copies:,} of {len(self.digests):,} images are exact copies of others.")
        return notes


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    first = ", ".join(f"`{name}`" for name in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{first} and {more:,} more" if more > 0 else first


def threads() -> ThreadPoolExecutor:
    """Threads for reading; decoders let each other run."""
    return ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "read")


def ahead(work: Callable[[int], Pixels], indices: Iterable[int], depth: int) -> Iterator[Pixels]:
    """Results in order, with up to `depth` of them in the making."""
    futures: deque[Future[Pixels]] = deque()
    with threads() as pool:
        try:
            for index in indices:
                futures.append(pool.submit(work, index))
                if len(futures) >= depth:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()


def read_prompts(files: Files, names: Sequence[str]) -> tuple[str, ...]:
    """A prompt for every image, or none at all.

    They come from `metadata.jsonl`, else from `captions.txt` in the order of the images, else from
    a .txt file of the same name as each image.
    """
    present = set(files.names())
    if LISTED in present:
        prompts = listed_prompts(files, names)
    elif IN_ORDER in present:
        prompts = lines_of(read_text(files, IN_ORDER))
        if len(prompts) != len(names):
            raise SpecError(
                f"`{files.root}/{IN_ORDER}` has {len(prompts):,} lines for {len(names):,} images.",
                "It has to have one line per image, in the order of their numbers and names.",
            )
    else:
        texts = [str(Path(name).with_suffix(".txt").as_posix()) for name in names]
        if not present.intersection(texts):
            return ()
        prompts = [read_text(files, text).strip() if text in present else "" for text in texts]
    blank = [name for name, prompt in zip(names, prompts, strict=True) if not prompt.strip()]
    if blank:
        raise SpecError(
            f"{shown(blank)} in `{files.root}` has no prompt, while other images have one.",
            "Complete the prompts, or remove them all.",
        )
    return tuple(prompts)


def read_text(files: Files, name: str) -> str:
    """A text file."""
    try:
        with files.open(name) as file:
            return decoded(file.read())
    except UnicodeDecodeError as error:
        raise SpecError(
            f"`{files.root}/{name}` is no text in UTF-8: {error.reason}.", "Save it as UTF-8."
        ) from error
    except ARCHIVE_ERRORS as error:
        raise SpecError(
            f"`{files.root}/{name}` cannot be read: {reason(error)}.", "Copy or pack it again."
        ) from error


def listed_prompts(files: Files, names: Sequence[str]) -> list[str]:
    """The prompts of the lines {"file_name": ..., "prompt": ...} of `metadata.jsonl`."""
    found: dict[str, str] = {}
    where = f"`{files.root}/{LISTED}`"
    for number, line in enumerate(lines_of(read_text(files, LISTED)), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            name = entry["file_name"]
            prompt = next(entry[key] for key in CAPTION_KEYS if key in entry)
        except (ValueError, KeyError, TypeError, StopIteration):
            name = prompt = None
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise SpecError(
                f'{where}, line {number} is not of the form {{"file_name": ..., "prompt": ...}}.'
            )
        if name in found:
            raise SpecError(f"{where}, line {number} names `{name}` a second time.")
        found[name] = prompt
    if unknown := found.keys() - set(names):
        raise SpecError(f"{where} names `{min(unknown)}`, which is no image here.")
    return [found.get(name, "") for name in names]
