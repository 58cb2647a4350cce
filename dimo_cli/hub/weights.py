"""Weights of any published format, read safely, converted once, memory-mapped ever after.

safetensors files are used as they are. Pickles are read with weights_only (tensors and plain
containers, nothing that runs code) and converted into a safetensors file in dimo's cache, named
after the hash of its source.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimo_cli import __version__
from dimo_cli.errors import DimoError, MissingError, lacks_memory
from dimo_cli.files.reading import check_regular
from dimo_cli.files.torch_files import load_torch
from dimo_cli.files.writing import file_sha256, whole_file
from dimo_cli.hub.access import Located, dimo_cache
from dimo_cli.hub.problems import disk_full
from dimo_cli.hub.published import HubFile, Published, StateDict

# What wrappers of training scripts leave at the front of every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")


def read_published(
    published: Published,
    file: HubFile,
    located: Located,
    *,
    local: bool,
    forget: Callable[[Path], None],
) -> StateDict:
    """The state dict of a located file under our names.

    `forget` is told of one that is damaged: never of one that is known by its hash.
    """
    check_regular(located.path)
    try:
        if located.path.suffix == ".safetensors":
            return convert(published, load_file(located.path))
        digest = located.sha256 or file_sha256(located.path)
        cached = dimo_cache() / "weights" / f"{digest[:32]}-{conversion_id(published)}.safetensors"
        found = read_cached(cached)
        if found is None:
            weights = convert(published, state_dict_in(read_pickle(located.path), published.inside))
            about = {"source": f"{file}@{located.commit or 'local'}", "sha256": digest}
            write_whole(cached, weights, about)
            found = load_file(cached)
        return found
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if lacks_memory(error):
            raise
        reason = re.sub(r"\s+", " ", str(error))[:160]
        if file.sha256 is not None and file.sha256 == located.sha256:
            raise MissingError(
                f"`{file}` cannot be read, though it is the file that dimo knows ({reason}).",
                f"If its disk is to blame, remove {located.path} and bring it here again.",
            ) from error
        forget(located.path)
        raise MissingError(
            f"`{file}` cannot be read: it is truncated or is not what its name says ({reason}).",
            "Run the same command again to download it afresh."
            if not local
            else "Copy the file into the local folder again.",
        ) from error


def conversion_id(published: Published) -> str:
    """What tells one conversion of a file from another."""
    how = f"{__version__} {published.inside} {published.convert.__module__} "
    how += getattr(published.convert, "__qualname__", "")
    return hashlib.sha256(how.encode()).hexdigest()[:12]


def read_cached(path: Path) -> StateDict | None:
    """A converted file; None where there is none, or none that can be read."""
    if not path.is_file():
        return None
    try:
        return load_file(path)
    except SafetensorError as error:
        if lacks_memory(error):
            raise
        path.unlink(missing_ok=True)
        return None
    except OSError:  # as that of another user of a shared cache
        return None


def read_pickle(path: Path) -> dict[str, Any]:
    """The plain containers and tensors of a torch file; anything that could run code is refused."""
    try:
        content = load_torch(path, mapped=True)
    except (DimoError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        if lacks_memory(error):
            raise
        raise pickle.UnpicklingError(
            "it holds objects other than tensors, which dimo never loads"
            if "weights_only" in str(error) or "Unsupported" in str(error)
            else f"{error or type(error).__name__}"
        ) from error
    if not isinstance(content, dict):
        raise pickle.UnpicklingError("it holds no state dict")
    return content


def state_dict_in(content: dict[str, Any], inside: str | None) -> StateDict:
    """The state dict within a checkpoint."""
    if inside is not None:
        if inside not in content:
            raise pickle.UnpicklingError(f"it has no `{inside}`")
        content = content[inside]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise pickle.UnpicklingError("it holds no state dict")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise pickle.UnpicklingError(f"`{others[0]}` is not a tensor")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise pickle.UnpicklingError(f"`{name}` is no plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise pickle.UnpicklingError(f"`{name}` claims more numbers than it has")
    return content


def convert(published: Published, weights: StateDict) -> StateDict:
    """Our names for published ones, without the prefixes of training wrappers."""
    return published.convert({strip_wrappers(name): tensor for name, tensor in weights.items()})


def strip_wrappers(name: str) -> str:
    """A name without leading wrapper prefixes."""
    while name.startswith(WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def write_whole(path: Path, weights: StateDict, about: dict[str, str]) -> None:
    """Write a safetensors file completely, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            save_file({name: t.contiguous().clone() for name, t in weights.items()}, file, about)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == 28 or "os error 28" in str(error).lower():
            raise disk_full(path.parent) from error
        raise MissingError(
            f"Cannot write to the cache {path.parent}: {error}.",
            "Check its permissions, or move it by setting HF_HOME.",
        ) from error
