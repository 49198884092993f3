"""How long each layer would take in each pattern and density: ``latency_table``."""

from .build import DENSITIES, default_patterns, latency_table
from .table import Curve, LatencyTable, LayerTimes

__all__ = ["DENSITIES", "Curve", "LatencyTable", "LayerTimes", "default_patterns", "latency_table"]
