"""Compressed models on disk."""

from .load import load, run_as_chosen_, shape_
from .restore import checked, dense_kernel, reported, submodule
from .save import gathered, save

__all__ = ["checked", "dense_kernel", "gathered", "load", "reported", "run_as_chosen_", "save", "shape_", "submodule"]
