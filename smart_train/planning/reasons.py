"""Why a layer got what it got, in a few words."""

from smart_kernels import LayerTimes

from .options import Option
from .targets import Target


def rate(dense: Option, option: Option) -> float:
    """Return the loss for each unit of what the target limits that an option saves."""
    saved = dense.cost - option.cost
    return option.loss / saved if saved > 0 else float("inf")


def highest_rate(chosen: dict[str, Option], options: dict[str, list[Option]]) -> float:
    """Return the most that was paid for a unit anywhere."""
    rates = [rate(options[name][0], option) for name, option in chosen.items() if option.pattern is not None]
    return max(rates, default=0.0)


def why(layer: LayerTimes, option: Option, options: list[Option], target: Target, highest: float) -> str:
    """Say why an option was chosen for a layer.

    Args:
        options: of the layer; the first is dense.
        highest: loss for a unit that was paid at most in the plan.
    """
    dense = options[0]
    if option.pattern is not None:
        saved = dense.cost - option.cost
        form = f" as {layer.curves[str(option.pattern)].label(option.density)}" if target.in_time else ""
        return f"saves {saved:.3g} {target.unit}{form}, {rate(dense, option):.3g} loss for each"
    if not layer.curves:
        return "no sparse form was measured"
    if len(options) == 1:
        return "stays dense: no pattern is faster" if target.in_time else "stays dense: no pattern saves anything"
    if not highest:
        return "stays dense: the target is met without it"
    cheapest = min(rate(dense, other) for other in options[1:])
    return f"stays dense: a saved {target.unit} costs {cheapest:.3g} loss here, at most {highest:.3g} where it is saved"
