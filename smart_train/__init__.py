"""Finds the masks: ``SmartPruner`` and its schedules."""

from .pruner import SmartPruner

__all__ = ["SmartPruner"]
