"""Definitions of ``masked_linear``, ``smart_linear`` and ``masked_conv2d``, for the ops of this family alone."""
