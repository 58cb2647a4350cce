"""Images of a folder, of .tar files or of a Hub dataset, each with its class or its caption."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from dimo_cli.data.hub_pictures import list_hub
from dimo_cli.data.source import CAPTION_COLUMNS, Mark, Source, mark_of
from dimo_cli.errors import DimoError, MissingError, SpecError
from dimo_cli.files.lines import decoded, lines_of
from dimo_cli.files.pictures import SUFFIXES, is_picture, open_picture
from dimo_cli.files.reading import MOST_PROMPTS, read_bytes
from dimo_cli.files.untrusted import parse_json
from dimo_cli.hub.datasets import PREFIX, is_reference
from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.protocol import Teacher

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
LONGEST_NUMBER = 10  # digits of a class


class FolderSource(Source):
    """Image files below a folder; names are relative to it."""

    def __init__(self, root: Path, names: Sequence[str], words: Sequence[str], others: int) -> None:
        super().__init__(names, words, others)
        self.root = root

    def open(self, index: int) -> Image.Image:
        return open_picture(self.root / self.names[index])

    def marks(self, rows: range) -> list[Mark | None]:
        return [mark_of(self.root / self.names[row]) for row in rows]


class TarSource(Source):
    """Images inside uncompressed .tar files (webdataset), read from where they lie."""

    def __init__(
        self,
        names: Sequence[str],
        words: Sequence[str],
        places: Sequence[tuple[Path, int, int]],
        others: int,
    ) -> None:
        """A place is the archive, the offset in it and the size."""
        super().__init__(names, words, others)
        self.places = list(places)

    def open(self, index: int) -> Image.Image:
        archive, offset, size = self.places[index]
        with archive.open("rb") as file:
            file.seek(offset)
            return open_picture(io.BytesIO(file.read(size)))

    def marks(self, rows: range) -> list[Mark | None]:
        """Those of their archives."""
        places = [self.places[row][0] for row in rows]
        known = {archive: mark_of(archive) for archive in set(places)}
        return [known[archive] for archive in places]


def open_source(
    source: str, captions: bool, say: Callable[[str], None] = lambda line: None
) -> Source:
    """List the images of a source, each with its class word, or with its caption."""
    found: Source
    path = Path(source).expanduser()
    if is_reference(source):
        found = list_hub(source, captions, say)
    elif path.is_dir():
        archives = sorted(path.glob("*.tar"))
        if archives:
            found = list_archives(archives, captions)
        else:
            found = list_captioned(path) if captions else list_classes(path)
    elif path.is_file():
        if path.suffix != ".tar":
            raise SpecError(
                f"`{source}` is a single file.", "Name a folder of images or a .tar file."
            )
        found = list_archives([path], captions)
    elif HUB_ID.match(source):
        found = list_hub(f"{PREFIX}{source}", captions, say)
    else:
        raise MissingError(
            f"There is no folder or file `{source}`.",
            "A dataset of the Hub is named hub:OWNER/NAME:COLUMN.",
        )
    if not found:
        raise SpecError(
            f"`{source}` has no images.", f"Images are files that end in {', '.join(SUFFIXES)}."
        )
    return found


def split_images(files: Iterable[Path]) -> tuple[list[Path], int]:
    """The images among files, sorted, and how many are none (captions belong to images)."""
    files = sorted(files)
    images = [path for path in files if is_picture(path.name)]
    captions = {path.with_suffix(".txt") for path in images}
    others = sum(path not in captions and path.name != "captions.jsonl" for path in files)
    return images, others - len(images)


def files_below(folder: Path) -> Iterable[Path]:
    """All files of a folder and its subfolders, linked ones too."""
    return (
        Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def list_classes(root: Path) -> Source:
    """One subfolder per class; its name is the word of the class."""
    images, others = split_images(files_below(root))
    relative = [path.relative_to(root) for path in images]
    if loose := [path for path in relative if len(path.parts) == 1]:
        raise SpecError(
            f"`{root / loose[0]}` lies in no class folder, as {len(loose)} of {len(images)} images "
            "do. This teacher needs classes.",
            "Put the images of each class into a subfolder of its own.",
        )
    names = [path.as_posix() for path in relative]
    return FolderSource(root, names, [path.parts[0] for path in relative], others)


def list_captioned(root: Path) -> Source:
    """Images with captions, from one `captions.jsonl` or from a `name.txt` beside each."""
    images, others = split_images(files_below(root))
    names = [path.relative_to(root).as_posix() for path in images]
    listed = root / "captions.jsonl"
    captions = read_caption_list(listed) if listed.is_file() else {}
    if unknown := captions.keys() - set(names):
        raise SpecError(f"`{listed}` names `{min(unknown)}`, which is no image of the folder.")
    for name, path in zip(names, images, strict=True):
        text = path.with_suffix(".txt")
        if name not in captions and text.is_file():
            captions[name] = text_of(text).strip()
    missing = [name for name in names if not captions.get(name)]
    if missing:
        raise SpecError(
            f"`{root / missing[0]}` has no caption, as {len(missing)} of {len(names)} images. "
            "This teacher needs captions.",
            'Write it to a .txt file beside the image, or as a line {"file": ..., "caption": ...} '
            "of `captions.jsonl`.",
        )
    return FolderSource(root, names, [captions[name] for name in names], others)


def text_of(path: Path) -> str:
    """A text file."""
    try:
        return decoded(read_bytes(path, MOST_PROMPTS))
    except UnicodeDecodeError as error:
        raise SpecError(f"`{path}` is no text in UTF-8: {error.reason}.") from None


def read_caption_list(path: Path) -> dict[str, str]:
    """The lines {"file": ..., "caption": ...} of a file."""
    captions = {}
    for number, line in enumerate(lines_of(text_of(path)), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            caption = str(entry["caption"]).strip()
            caption.encode()  # half of a surrogate pair is no text
            captions[str(entry["file"])] = caption
        except (ValueError, KeyError, TypeError):
            raise SpecError(
                f'`{path}`, line {number} is not of the form {{"file": ..., "caption": ...}}.'
            ) from None
    return captions


def list_archives(archives: Sequence[Path], captions: bool) -> Source:
    """Images of webdataset archives: `name.jpg` with `name.cls`, `name.txt` or `name.json`."""
    names, words, places, others = [], [], [], 0
    for archive in archives:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    if member.issparse() or member.size > archive.stat().st_size:
                        raise tarfile.TarError(f"`{member.name}` claims to be larger than it is")
                    if member.isfile():
                        folder, _, file = member.name.rpartition("/")
                        stem, _, suffix = file.partition(".")
                        samples.setdefault(f"{folder}/{stem}".lstrip("/"), {})[suffix] = member
                for key, parts in samples.items():
                    image = next((s for s in parts if f".{s.lower()}" in SUFFIXES), None)
                    if image is None:
                        others += len(parts)
                        continue
                    names.append(f"{archive.name}:{parts[image].name}")
                    words.append(word_in_archive(tar, parts, captions, f"{archive.name}:{key}"))
                    places.append((archive, parts[image].offset_data, parts[image].size))
        except DimoError:
            raise
        except Exception as error:  # its headers are text and numbers, which can be anything
            raise SpecError(
                f"`{archive}` is no plain .tar file: {error}.",
                "Compressed ones are to be unpacked.",
            ) from error
    return TarSource(names, words, places, others)


def word_in_archive(
    tar: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], captions: bool, what: str
) -> str:
    """The class or the caption of one sample."""

    def text(suffix: str) -> str | None:
        file = tar.extractfile(parts[suffix]) if suffix in parts else None
        try:
            return decoded(file.read()).strip() if file else None
        except UnicodeDecodeError:
            raise SpecError(f"`{what}.{suffix}` is no text in UTF-8.") from None

    word = text("txt" if captions else "cls")
    about = text("json")
    if not word and about:
        try:
            entry = parse_json(about)
            keys = CAPTION_COLUMNS if captions else ("label", "cls")
            word = next((str(entry[key]) for key in keys if key in entry), "")
            word.encode()  # half of a surrogate pair is no text
        except (ValueError, TypeError):
            raise SpecError(f"`{what}.json` is no valid JSON object.") from None
    if not word:
        raise SpecError(
            f"`{what}` has no caption: neither .txt nor .json has one."
            if captions
            else f"`{what}` has no class: neither .cls nor .json has one."
        )
    return word


def class_labels(words: Sequence[str], teacher: Teacher) -> dict[str, int]:
    """The class of each word of a source.

    Words are class numbers, WordNet ids or class names. Words of another kind count as classes in
    their sorted order, as is usual for folders; then there must be as many as classes.
    """
    distinct, count = sorted(set(words)), len(teacher.class_names)
    if all(word.isdecimal() and len(word) < LONGEST_NUMBER for word in distinct):
        labels = {word: int(word) for word in distinct}
        if beyond := [word for word, label in labels.items() if label >= count]:
            raise SpecError(f"Class {beyond[0]} is beyond the {count} classes of the teacher.")
        return labels
    try:
        return {word: find_class(word, teacher) for word in distinct}
    except SpecError as error:
        if len(distinct) == count:
            return {word: label for label, word in enumerate(distinct)}
        raise SpecError(
            f"{error.message} The source has {len(distinct)} classes and `{teacher.name}` has "
            f"{count}, so their order says nothing either.",
            "Name the class folders by class number, WordNet id or class name.",
        ) from None
