"""Triton kernels: pointers, strides, blocks. A room per family, and ``common`` for what they share."""
