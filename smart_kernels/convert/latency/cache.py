"""Entries that earlier tables have measured, on disk."""

import hashlib
import json
import logging
import os
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

from smart_kernels.convert.compress import Settings
from smart_kernels.convert.measure import device_name

from .measure import Entry

logger = logging.getLogger("smart_kernels")
PACKAGES = ("torch", "triton", "llvmlite", "smart-kernels")  # a time may change with the version of any


def default_folder() -> Path:
    """Return ``smart_kernels/latency`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smart_kernels" / "latency"


def conditions(device: torch.device, settings: Settings) -> dict:
    """Return what the times of all entries depend on: device, threads, versions, and how they are called."""
    return {
        "device": device_name(device),
        "versions": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda or "",
        "cuda_graph": settings.cuda_graph,
        "backends": list(settings.tried),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


class Cache:
    """A file of entries for one set of conditions.

    Several processes may write to it: each writes what it knows in one rename, and a reader never sees half a file. The
    last one wins; what is lost is measured again.

    Args:
        folder: made when something is written; None keeps nothing.
        conditions: a file is for these alone.
    """

    def __init__(self, folder: Path | None, conditions: dict):
        self.conditions = conditions
        digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
        self.path = None if folder is None else Path(folder) / f"{digest}.json"
        self.entries = self._read()

    def get(self, key: str) -> Entry | None:
        """Return an entry, or None."""
        return self.entries.get(key)

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry, until ``write`` in memory only."""
        self.entries[key] = entry

    def write(self) -> None:
        """Write all entries, and those that others have written meanwhile; a folder that cannot be is said once."""
        if self.path is None:
            return
        entries = {key: asdict(entry) for key, entry in (self._read() | self.entries).items()}
        text = json.dumps({"conditions": self.conditions, "entries": entries}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.with_suffix(f".{os.getpid()}")
            half.write_text(text)
            os.replace(half, self.path)
        except OSError as error:
            logger.warning("latency_table keeps nothing in %s: %s", self.path.parent, error)

    def _read(self) -> dict[str, Entry]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text())
            if content["conditions"] != self.conditions:
                raise ValueError("of other conditions")
            return {key: _entry(value) for key, value in content["entries"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s is no latency cache and will be replaced: %s", self.path, error)
            return {}


def _entry(value: dict) -> Entry:
    entry = Entry(float(value["density"]), float(value["ratio"]), str(value["label"]))
    if not (0 < entry.density <= 1 and 0 < entry.ratio < float("inf")):
        raise ValueError(f"density and ratio must be above 0, got {entry}")
    return entry
