"""Check ``config.json``: every entry has its place and its type, and there are no others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any, str], None]


@dataclass(frozen=True)
class Table:
    """A table with known keys.

    Attributes:
        keys: name -> check of its value.
        optional: the names that may be left out.
    """

    keys: dict[str, Check]
    optional: frozenset[str] = frozenset()

    def __call__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a table, got {_shown(value)}")
        if missing := self.keys.keys() - self.optional - value.keys():
            raise ValueError(f"{where} must hold {sorted(self.keys)}, got it missing {missing}")
        if unknown := value.keys() - self.keys.keys():
            raise ValueError(f"{where} must hold {sorted(self.keys)}, got also {_shown(', '.join(sorted(unknown)))}")
        for name, entry in value.items():
            self.keys[name](entry, f"{where}.{name}")


def text(value: Any, where: str) -> None:
    """Raise ValueError unless this is a text."""
    _check(isinstance(value, str), "a text", value, where)


def number(value: Any, where: str) -> None:
    """Raise ValueError unless this is a number."""
    _check(type(value) in (int, float), "a number", value, where)


def count(value: Any, where: str) -> None:
    """Raise ValueError unless this is a whole number from 0 to 2^63 - 1."""
    _check(type(value) is int and 0 <= value < 2**63, "a whole number from 0 to 2^63 - 1", value, where)


def size(value: Any, where: str) -> None:
    """Raise ValueError unless this is a whole number from 1 to 2^31 - 1."""
    _check(type(value) is int and 0 < value < 2**31, "a whole number from 1 to 2^31 - 1", value, where)


def setting(value: Any, where: str) -> None:
    """Raise ValueError unless this is a text, a number or a truth value."""
    _check(type(value) in (int, float, bool, str), "a text, a number or a truth value", value, where)


def truth(value: Any, where: str) -> None:
    """Raise ValueError unless this is true or false."""
    _check(isinstance(value, bool), "true or false", value, where)


def anything(value: Any, where: str) -> None:
    """Take whatever it is: nothing reads it."""


def sequence(check: Check, length: int | None = None) -> Check:
    """Return the check of a list of values, or of exactly ``length``."""

    def found(value: Any, where: str) -> None:
        _check(isinstance(value, list) and length in (None, len(value)), f"a list of {length or 'any'}", value, where)
        for entry in value:
            check(entry, where)

    return found


def mapping(check: Check) -> Check:
    """Return the check of a table with any keys."""

    def found(value: Any, where: str) -> None:
        _check(isinstance(value, dict), "a table", value, where)
        for name, entry in value.items():
            check(entry, f"{where}.{name[:80]}")

    return found


def optional(check: Check) -> Check:
    """Return the check of a value that may be null."""
    return lambda value, where: None if value is None else check(value, where)


def _check(holds: bool, must: str, value: Any, where: str) -> None:
    if not holds:
        raise ValueError(f"{where} must be {must}, got {_shown(value)}")


def _shown(value: Any) -> str:
    shown = str(value) if isinstance(value, str | int | float) else type(value).__name__
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


_ROW = Table(
    {
        "name": text,
        "shape": sequence(count, 3),
        "kept": number,
        "tile": optional(sequence(size, 2)),
        "choice": text,
        "options": mapping(setting),
        "baseline": text,
        "dense_ms": optional(number),
        "ms": optional(number),
        "spread": number,
        "pairs": count,
        "shared": sequence(text),
        "note": text,
        "activation": optional(text),
        "residual": truth,
        "joined": sequence(text),
    },
    frozenset({"activation", "residual", "joined"}),
)
_COST = Table({"macs": count, "parameters": count, "nbytes": count, "ms": optional(number)})
_SETTINGS = Table(
    {
        "pattern": optional(text),
        "backends": optional(sequence(text)),
        "policy": text,
        "cuda_graph": truth,
    },
    frozenset({"pattern", "backends", "policy", "cuda_graph"}),
)
REPORT = Table(
    {
        "rows": sequence(_ROW),
        "device": text,
        "torch_version": text,
        "absent": sequence(text),
        "settings": _SETTINGS,
        "before": optional(_COST),
        "after": optional(_COST),
        "left": mapping(text),
        "totals": anything,
    },
    frozenset({"absent", "settings", "before", "after", "left", "totals"}),
)
CONFIG = Table(
    {
        "version": count,
        "layers": mapping(anything),  # each LAYER, checked with the row that it belongs to
        "tied": mapping(text),
        "slimmed": mapping(sequence(count)),
        "numbers": mapping(mapping(size)),
        "split_attention": sequence(text),
        "folded": sequence(text),
        "report": anything,  # REPORT
        "versions": mapping(text),
        "tensors": Table({"bytes": count, "sha256": text}),
    },
    frozenset({"slimmed", "numbers", "folded", "versions", "tensors"}),
)
LAYER = Table({"stored": text, "shared": sequence(text)})
