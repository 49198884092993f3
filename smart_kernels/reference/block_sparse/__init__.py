"""Definitions of ``block_sparse_linear`` and ``block_sparse_conv2d``, for the ops of this family alone."""
