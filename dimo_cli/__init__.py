"""dimo: distill masked diffusion models into one-step image generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dimo_cli.pipeline import OneStepPipeline

__all__ = ["OneStepPipeline", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The pipeline, imported only when it is asked for: `dimo --help` never waits for torch."""
    if name == "OneStepPipeline":
        from dimo_cli.pipeline import OneStepPipeline

        return OneStepPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
