"""Checks of the numbers that users give."""

from numbers import Integral, Real


class NoNumberError(TypeError, ValueError):
    """A value is no number: a wrong type in Python, a wrong value where it was text on a command line."""


def check_number(
    name: str, value: object, *, least: float | None = None, above: float | None = None, whole: bool = False
) -> None:
    """Check an argument, of which ``name`` is what the user calls it.

    Args:
        value: a truth value is no number.
        least, above: the smallest value, and one that is too small.
        whole: whether 1.5 is wrong.

    Raises:
        NoNumberError: it is no number, or no whole one.
        ValueError: it is out of its range, or NaN.
    """
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        raise NoNumberError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if least is not None and not value >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value}")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be above {above:g}, got {value}")
