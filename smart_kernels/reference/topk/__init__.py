"""Definitions of ``soft_topk`` and ``smart_weight``, for the ops of this family alone."""
