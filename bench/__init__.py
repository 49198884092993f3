"""Measurements: kernels, layers and machine code. ``python -m bench``, and ``smart-bench`` where it is installed."""
