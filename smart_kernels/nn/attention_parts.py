"""The weights of an ``nn.MultiheadAttention``, as four Linears."""

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

PACKED = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
Pieces = dict[int, tuple[nn.Parameter, ...]]  # by the id of the Parameter that was cut


def why_not_split(attention: nn.MultiheadAttention) -> str | None:
    """Return why a module cannot be split, or None: it must compute what ``nn.MultiheadAttention`` does, on Parameters
    of its own that nothing recomputes."""
    out = attention.out_proj
    if type(attention) is not nn.MultiheadAttention:
        return f"{type(attention).__name__} is a subclass of nn.MultiheadAttention"
    if "forward" in vars(attention):
        return "its forward has been replaced"
    if type(out) not in (nn.Linear, NonDynamicallyQuantizableLinear):
        return f"its out_proj is a {type(out).__name__}"
    if not set(PACKED) <= attention._parameters.keys() or not {"weight", "bias"} <= out._parameters.keys():
        return "its weights are computed from others"
    return None


def packed(attention: nn.MultiheadAttention) -> list[nn.Parameter]:
    """Return the Parameters that ``projections`` cuts or copies."""
    return [attention._parameters[name] for name in PACKED if attention._parameters[name] is not None]


def projections(attention: nn.MultiheadAttention, pieces: Pieces) -> dict[str, nn.Linear]:
    """Return q_proj, k_proj, v_proj, which hold copies of what ``attention`` packs, and its own out_proj.

    Args:
        attention: one that can be split.
        pieces: what Parameters have been cut into; completed. Attentions that share one share its pieces.
    """
    p = attention._parameters
    if p["in_proj_weight"] is not None:
        weights = _cut(p["in_proj_weight"], 3, pieces)
    else:
        weights = tuple(_cut(p[f"{name}_proj_weight"], 1, pieces)[0] for name in "qkv")
    biases = (None,) * 3 if p["in_proj_bias"] is None else _cut(p["in_proj_bias"], 3, pieces)
    parts = zip("qkv", weights, biases, strict=True)
    linears = {f"{name}_proj": _linear(weight, bias).train(attention.training) for name, weight, bias in parts}
    return linears | {"out_proj": attention.out_proj}


def _cut(packed: nn.Parameter, count: int, pieces: Pieces) -> tuple[nn.Parameter, ...]:
    if id(packed) not in pieces:
        parts = packed.detach().chunk(count)
        pieces[id(packed)] = tuple(nn.Parameter(part.clone(), packed.requires_grad) for part in parts)
    return pieces[id(packed)]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = weight
    linear.bias = bias
    return linear
