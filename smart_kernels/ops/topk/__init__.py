"""Soft top-k: masks that keep a budget, and a weight times such a mask in groups of n:m."""

from .smart_weight import smart_weight
from .soft_topk import soft_topk

__all__ = ["smart_weight", "soft_topk"]
