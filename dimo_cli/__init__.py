"""dimo: distill masked diffusion models into one-step image generators."""

__version__ = "0.1.0"
