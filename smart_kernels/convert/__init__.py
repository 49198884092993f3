"""Whole models: ``mask_`` to prune, ``unmask_`` to bake the zeros in."""

from .mask import mask_, masked_layers, unmask_

__all__ = ["mask_", "masked_layers", "unmask_"]
