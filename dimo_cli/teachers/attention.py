"""Which of torch's attentions the networks may use on CUDA: flash, memory-efficient, plain.

cuDNN's fused attention is left out. On Hopper cards torch would take it first, and there its
backward fails for Meissonic's shapes in bf16 (1,024 image tokens beside 77 of text): the card ends
in an illegal memory access, from which no process recovers. Flash attention takes the same shapes.
"""

import torch


def allow_cudnn(allowed: bool) -> None:
    """Let torch choose cuDNN's fused attention, or never; for the whole process."""
    torch.backends.cuda.enable_cudnn_sdp(allowed)
