"""Targets as the command line and a recipe write them."""

import re

from .targets import Latency, Speedup, Target

MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3}


def parse_target(text: str) -> Target:
    """Read "speedup:2" or "latency:4ms".

    Raises:
        ValueError: it is written otherwise, or out of range.
    """
    name, _, value = text.partition(":")
    if name == "speedup":
        return Speedup(_number("speed-up", value))
    if name == "latency":
        return Latency(_milliseconds(value))
    raise ValueError(f"target must be speedup:FACTOR or latency:TIME, got {text!r}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _milliseconds(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9.e-]+?)\s*(s|ms|us)\s*", text)
    if found is None:
        raise ValueError(f"latency must be a number and s, ms or us, such as 4ms, got {text!r}")
    return _number("latency", found[1]) * MILLISECONDS[found[2]]
