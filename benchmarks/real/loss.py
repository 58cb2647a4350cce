"""Both losses at a large vocabulary, in chunks as dimo takes them and with whole tensors."""

import contextlib
from typing import Any

import torch

from benchmarks.loss import LARGE, Heads, Size, chunked, peak_over_logits, whole
from benchmarks.real.pieces import Found, Keep, Row, Setting, alternate, measure_pieces

TINY = Size(2, 64, 256, 32)


def measure(setting: Setting, keep: Keep, only: str | None = None) -> dict[str, Any]:
    """The losses, which are one piece."""
    return measure_pieces("loss", {"losses": measure_losses}, setting, keep)


def measure_losses(setting: Setting) -> Found:
    """Time of both ways in turn, then the peak of each."""
    size, device = TINY if setting.tiny else LARGE, setting.device
    with (
        torch.autocast("cuda", torch.bfloat16)
        if device.type == "cuda"
        else (contextlib.nullcontext())
    ):
        heads = Heads(size, device)
        times = alternate({"dimo": lambda: chunked(heads), "whole": lambda: whole(heads)}, setting)
        ours = peak_over_logits(size, device, chunked)
        usual = peak_over_logits(size, device, whole)
    over_whole = times["dimo"]["median"] / times["whole"]["median"]
    rows = [
        Row("losses over whole tensors", over_whole, 1.05, before=10.0),
        Row("losses' peak over one logits tensor", ours["ratio"], 0.50, before=0.58),
        Row("losses", times["dimo"]["median"], unit="s", before=0.122),
        Row("whole tensors", times["whole"]["median"], unit="s", before=0.012),
    ]
    return Found(rows, {"seconds": times, "memory": {"dimo": ours, "whole": usual}})
