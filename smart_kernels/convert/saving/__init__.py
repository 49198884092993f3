"""Compressed models on disk."""

from .load import load
from .save import save

__all__ = ["load", "save"]
