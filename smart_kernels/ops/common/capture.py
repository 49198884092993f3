"""CUDA graphs: what Python decides while one is captured holds for every replay."""

import torch


def capturing() -> bool:
    """Return whether the launches of this thread go into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
