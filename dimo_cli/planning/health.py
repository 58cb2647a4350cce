"""The checks of `dimo doctor`. Each says what it found and, if that is bad, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dimo_cli.errors import counted
from dimo_cli.hub.access import download_cache, endpoint, is_offline
from dimo_cli.redacting import without_secrets

if TYPE_CHECKING:
    import torch

GIB = 2**30
REQUIRED = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "cleanfid",
    "open_clip",
)
SIDE, TRIES = 768, 5
SHORTEST = 1e-9  # seconds: a clock may stand still for a while


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def run_checks(folder: Path, offline: bool) -> list[Check]:
    """All checks in order; one that fails to run is itself a problem, not a crash."""
    hub = (lambda: Check("Hub", "note", "not tried (--offline)")) if offline else check_hub
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("device", check_device),
        ("bf16", check_bf16),
        ("memory", check_memory),
        ("disk", lambda: check_disk(folder)),
        ("cache", check_cache),
        ("Hub", hub),
        ("login", check_login),
        ("built-in students", check_builtin),
    ]
    return [_safely(name, check) for name, check in checks]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        reason = without_secrets(f"{type(error).__name__}: {error}")
        return Check(name, "problem", reason, "Reinstall with `pipx install --force dimo-cli`.")


def check_python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.maxsize < 2**32:
        return Check("Python", "problem", found, "Install a 64-bit Python: torch needs one.")
    return Check("Python", "ok", found)


def check_packages() -> Check:
    missing = [name for name in REQUIRED if find_spec(name) is None]
    if missing:
        advice = "Reinstall with `pipx install --force dimo-cli`."
        return Check("packages", "problem", f"missing: {', '.join(missing)}", advice)
    return Check("packages", "ok", f"all {len(REQUIRED)} found")


def check_torch() -> Check:
    import torch

    threads = torch.get_num_threads()
    found = f"{torch.__version__}, {counted(threads, 'thread')}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        return Check("torch", "problem", found, "Upgrade: `pip install 'torch>=2.10'`.")
    return Check("torch", "ok", found)


def check_device() -> Check:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.get_device_name()}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        return Check("device", "ok", found)
    advice = "Fine for the preset `digits`; large teachers need a CUDA GPU."
    if torch.version.cuda and shutil.which("nvidia-smi"):
        advice = (
            f"A driver is there, but torch (CUDA {torch.version.cuda}) sees no device: "
            "update the driver, or check CUDA_VISIBLE_DEVICES."
        )
    return Check("device", "note", "CPU only", advice)


def check_bf16() -> Check:
    import torch

    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Check("bf16", "ok", "native on this GPU")
        return Check("bf16", "note", "not native", "Use `--set train.precision=fp32`.")
    fp32, bf16 = (seconds_of_product(kind) for kind in (torch.float32, torch.bfloat16))
    found = (
        f"on CPU, {bf16 / fp32:.1f}x the time of fp32 ({1000 * bf16:.1f} and {1000 * fp32:.1f} ms "
        f"for matrices of {SIDE} x {SIDE})"
    )
    return Check("bf16", "note", found, "fp32 is used on CPU.")


def seconds_of_product(kind: torch.dtype) -> float:
    """The least of some tries to multiply two matrices that are as large as those of a network."""
    import torch

    matrix = torch.ones(SIDE, SIDE, dtype=kind)
    tries = []
    for _ in range(TRIES):
        started = time.perf_counter()
        matrix @ matrix
        tries.append(time.perf_counter() - started)
    return max(min(tries), SHORTEST)


def check_memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if total < 2:
        return Check("memory", "problem", f"{total:.1f} GiB", "At least 2 GiB are needed.")
    return Check("memory", "ok", f"{total:.0f} GiB")


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def check_disk(folder: Path) -> Check:
    place = existing_parent(folder.resolve())
    free = shutil.disk_usage(place).free / GIB
    found = f"{free:.1f} GiB free for runs in {folder.resolve()}"
    if not os.access(place, os.W_OK):
        return Check("disk", "problem", f"{place} is not writable", "Choose another `--out`.")
    if free < 1:
        return Check("disk", "problem", found, "Free at least 1 GiB, or choose another `--out`.")
    if free < 20:
        return Check("disk", "note", found, "Enough for `digits`; large teachers need 20 GiB.")
    return Check("disk", "ok", found)


def check_cache() -> Check:
    cache = download_cache()
    if not os.access(existing_parent(cache), os.W_OK):
        return Check("cache", "problem", f"{cache} is not writable", "Set HF_HOME elsewhere.")
    size = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file() and not f.is_symlink())
    return Check("cache", "ok", f"{cache}, {size / GIB:.1f} GiB used")


def check_hub() -> Check:
    from huggingface_hub.utils import get_session

    where = without_secrets(endpoint())
    if is_offline():
        return Check("Hub", "note", "offline by HF_HUB_OFFLINE", "Unset it to download teachers.")
    try:
        response = get_session().get(f"{endpoint()}/api/models?limit=1", timeout=5)
        response.raise_for_status()
    except Exception as error:  # any failure of any HTTP library means the same here
        advice = "Not needed for `digits`. Check network and proxy, or set HF_ENDPOINT to a mirror."
        return Check("Hub", "note", f"{where}: {type(error).__name__}", advice)
    return Check("Hub", "ok", f"{where} answers")


def check_login() -> Check:
    from huggingface_hub import get_token

    if get_token() is None:
        advice = "Only needed for gated teachers and `push`: run `hf auth login`."
        return Check("login", "note", "no token", advice)
    return Check("login", "ok", "a token is stored")


def check_builtin() -> Check:
    from dimo_cli.students.folder import BUILTIN, load_student

    students = {name: load_student(folder) for name, folder in BUILTIN.items()}
    counts = {
        name: sum(p.numel() for p in student.backbone.parameters())
        for name, student in students.items()
    }
    told = ", ".join(f"{name} ({count:,} parameters)" for name, count in counts.items())
    return Check("built-in students", "ok", f"{told} load")
