"""Measurements: kernels, layers and machine code. Not installed; run ``python -m bench``."""
