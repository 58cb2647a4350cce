"""What the files of a push tell beside their content, and what of it must not leave the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from dimo_cli.errors import SpecError
from dimo_cli.files.pictures import open_picture
from dimo_cli.files.reading import MOST_DOCUMENT, read_bytes, read_text
from dimo_cli.files.untrusted import parse_json
from dimo_cli.redacting import without_secrets
from dimo_cli.specs.manifest import StudentManifest
from dimo_cli.students.adapters import adapter_config
from dimo_cli.students.folder import base_of_adapters
from dimo_cli.students.student import Student

# Somebody's own folder, which names that person, anywhere in a text.
HOME = re.compile(r"""(?:/home/|/Users/|\b[A-Za-z]:\\+Users\\+)[^/\\\s"'`,;]+|/root(?=/)""")


def without_folders(value: Any) -> Any:
    """The same settings, with the last part alone of paths that lead through this machine."""
    if isinstance(value, dict):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute() or value.startswith(("~", ".")):
                return path.name
        return HOME.sub("~", value)
    return value


def public_manifest(manifest: StudentManifest) -> str:
    """dimo.json without folders of this machine and without secrets."""
    values = without_folders(manifest.model_dump(mode="json"))
    clean = StudentManifest.model_validate(values)
    return without_secrets(clean.model_dump_json(indent=2) + "\n")


def public_adapter_config(student: Student) -> str:
    """adapter_config.json as it follows from a student, whatever was added to the file since."""
    teacher = student.manifest.teacher
    config = adapter_config(student.backbone, base_of_adapters(teacher), teacher)
    return without_secrets(json.dumps(without_folders(config), indent=2) + "\n")


def check_weights(path: Path) -> None:
    """Refuse weights with a secret or somebody's folder in their metadata, which is never shown.

    They cannot be cleaned here: the hash of the whole file is what names the student.
    """
    for key, text in weights_metadata(path).items():
        if without_secrets(text) != text or HOME.search(text):
            raise SpecError(
                f"`{path}` has {key!r} in its metadata, which names a folder of somebody's or a "
                "secret, and would be published.",
                "Save the weights without metadata, and write their new sha256 into dimo.json.",
            )


def carried(path: Path) -> tuple[str, ...]:
    """The names of what a file tells by itself: of its metadata, its keys or its front matter."""
    try:
        match path.suffix:
            case ".png":
                with open_picture(path) as picture:
                    picture.load()
                    return tuple(sorted(map(str, picture.info)))
            case ".json":
                return tuple(parse_json(read_bytes(path, MOST_DOCUMENT)))
            case ".safetensors":
                return tuple(weights_metadata(path))
            case ".md":
                return tuple(yaml.safe_load(read_text(path, MOST_DOCUMENT).split("---\n")[1]))
    except Exception:  # of whichever decoder or parser
        return ("cannot be read",)
    return ()


def weights_metadata(path: Path) -> dict[str, str]:
    """What a file of weights says of itself."""
    try:
        with safe_open(path, "pt") as weights:
            return dict(weights.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from None
