"""The first minutes on a GPU, in parts: ``python -m bench gpu-check``. Each part is a module that offers cases()."""

from .check import Check, Context, Setting

PARTS = ("ceilings", "calls", "speed", "topk", "masked", "block", "persistent", "conv", "nm", "train")
PARTS += ("graphs", "tuning", "models", "steps", "sanitizer")

__all__ = ["PARTS", "Check", "Context", "Setting"]
