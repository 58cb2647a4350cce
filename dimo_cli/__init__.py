"""dimo: distill masked diffusion models into one-step image generators.

    import dimo_cli

    run = dimo_cli.distill("digits", steps=1000)
    images = dimo_cli.sample(run, classes=[7], count=16)

Nothing is imported before it is asked for: `import dimo_cli` is as fast as `dimo --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimo_cli.errors import DimoError
    from dimo_cli.evaluation.result import Evaluation
    from dimo_cli.pipeline import OneStepPipeline
    from dimo_cli.python.callbacks import Callback, StopRun
    from dimo_cli.python.drawing import sample
    from dimo_cli.python.measuring import evaluate
    from dimo_cli.python.run import Run, list_runs
    from dimo_cli.python.training import distill, refine, resume
    from dimo_cli.specs.distill import DistillSpec
    from dimo_cli.specs.refine import RefineSpec

__all__ = [
    "Callback",
    "DimoError",
    "DistillSpec",
    "Evaluation",
    "OneStepPipeline",
    "RefineSpec",
    "Run",
    "StopRun",
    "__version__",
    "distill",
    "evaluate",
    "list_runs",
    "refine",
    "resume",
    "sample",
]
__version__ = "0.1.0"

HOMES = {
    "Callback": "python.callbacks",
    "DimoError": "errors",
    "DistillSpec": "specs.distill",
    "Evaluation": "evaluation.result",
    "OneStepPipeline": "pipeline",
    "RefineSpec": "specs.refine",
    "Run": "python.run",
    "StopRun": "python.callbacks",
    "distill": "python.training",
    "evaluate": "python.measuring",
    "list_runs": "python.run",
    "refine": "python.training",
    "resume": "python.training",
    "sample": "python.drawing",
}
"""Where each name is, which is imported when somebody asks for it."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
