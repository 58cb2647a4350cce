"""Where the time of a call goes on the card: its kernels by time, and how long it had none."""

import time
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Call, synchronize
from benchmarks.real.pieces import Setting

MOST = 20  # kernels that are told
LONGEST_NAME = 100


def busiest(call: Call, setting: Setting) -> dict[str, Any]:
    """One call under the profiler: kernels that took most, the sum of all, and the whole time.

    The profiler takes time of its own, of Python more than of the card.
    """
    on_card = setting.device.type == "cuda"
    synchronize()
    with profile(activities=list(ProfilerActivity) if on_card else [ProfilerActivity.CPU]) as seen:
        started = time.perf_counter()
        call()
        synchronize()
        whole = time.perf_counter() - started
    # An operation is told the time of its kernels, which are told it themselves, as are whole
    # regions: of all these the kernels alone count.
    place = DeviceType.CUDA if on_card else DeviceType.CPU
    attribute = "self_device_time_total" if on_card else "self_cpu_time_total"
    found = [
        (getattr(event, attribute) / 1e6, event)
        for event in seen.key_averages()
        if event.device_type == place and not event.is_user_annotation
    ]
    found = sorted((pair for pair in found if pair[0] > 0), key=lambda pair: -pair[0])
    return {
        "seconds": whole,
        "busy_seconds": sum(seconds for seconds, _ in found),
        "kernels": sum(event.count for _, event in found),
        "busiest": [
            {"name": event.key[:LONGEST_NAME], "calls": event.count, "seconds": seconds}
            for seconds, event in found[:MOST]
        ],
    }
