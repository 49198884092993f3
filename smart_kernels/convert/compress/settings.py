"""How ``compress_`` is to choose."""

from dataclasses import dataclass

import torch

from smart_kernels.formats import FORMATS
from smart_kernels.patterns import Pattern, check_pattern, parse

BACKENDS = tuple(FORMATS)
DENSE = tuple(name for name, format in FORMATS.items() if format.dense)  # the best of them is the baseline


@dataclass(frozen=True)
class Settings:
    """The arguments of ``compress_``, checked.

    Raises:
        ValueError: an unknown policy or backend, or a pattern that is none.
    """

    pattern: Pattern | None = None
    backends: tuple[str, ...] | None = None
    policy: str = "speed"
    seconds: float = 0.5
    cuda_graph: bool = False

    def __post_init__(self):
        if self.pattern is not None:
            check_pattern(self.pattern)
        if self.policy not in ("speed", "size"):
            raise ValueError(f"policy must be 'speed' or 'size', got {self.policy!r}")
        unknown = set(self.tried) - FORMATS.keys()
        if unknown:
            raise ValueError(f"backends must be out of {tuple(FORMATS)}, got {sorted(unknown)}")

    @property
    def tried(self) -> tuple[str, ...]:
        """Return the names of the formats that are tried."""
        return tuple(FORMATS) if self.backends is None else tuple(self.backends)

    def check_device(self, device: torch.device) -> None:
        """Raise ``ValueError`` where CUDA graphs are asked for on another device."""
        if self.cuda_graph and device.type != "cuda":
            raise ValueError(f"cuda_graph=True needs a model on a CUDA device, got one on {device}")

    def to_dict(self) -> dict:
        """Return what another device chooses with, too, as plain values, for JSON."""
        return {
            "pattern": self.pattern and str(self.pattern),
            "backends": self.backends and list(self.backends),
            "policy": self.policy,
            "cuda_graph": self.cuda_graph,
        }

    @classmethod
    def arguments(cls, data: dict, device: torch.device) -> dict:
        """Turn ``to_dict`` into keyword arguments of ``compress_`` on a device, which may have no CUDA graphs."""
        pattern = data.get("pattern")
        backends = data.get("backends")
        return {
            "pattern": pattern and parse(pattern),
            "backends": backends and tuple(backends),
            "policy": data.get("policy", "speed"),
            "cuda_graph": data.get("cuda_graph", False) and device.type == "cuda",
        }
