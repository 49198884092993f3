"""Which layers are what their class says, and why the others are left alone."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from smart_kernels.nn import (
    TRANSPOSED,
    LiveNorm,
    MaskedBatchNorm,
    MaskedConv2d,
    MaskedLinear,
    SparseConv2d,
    SparseLinear,
)

LAYERS = (nn.Linear, nn.Conv2d)
MASKABLE = (*LAYERS, nn.Conv1d, nn.Conv3d, *TRANSPOSED)  # the others run dense, however many zeros they have
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
TABLES = (nn.Embedding, nn.EmbeddingBag)  # weights that are looked up, not multiplied
OURS = (MaskedLinear, MaskedConv2d, SparseLinear, SparseConv2d, MaskedBatchNorm)
OWN_NAMES = {name for cls in OURS for name in dir(cls)} - {name for cls in (*LAYERS, *BATCHNORMS) for name in dir(cls)}
OWN_NAMES -= {"weight", "bias"}
OWN_NAMES |= {
    "pattern",
    "scores",
    "held",
    "blocks",
    "batchnorm",
    "layer",
    "format",
    "live",
    "joined",
    "epilogue",
}  # set on the layers
NORM_NAMES = OWN_NAMES | {"kind"} | set(dir(LiveNorm)) - set(dir(nn.Module))


def why_not_plain(layer: nn.Module, classes: tuple[type[nn.Module], ...] = LAYERS) -> str | None:
    """Return why a layer cannot be changed, or None: it must compute what one of these classes does, from Parameters of
    its own that nothing recomputes."""
    if parametrize.is_parametrized(layer):
        kinds = [type(part).__name__ for parts in layer.parametrizations.values() for part in parts]
        return f"its {' and '.join(layer.parametrizations)} is parametrized ({', '.join(kinds)})"
    if type(layer) not in classes:
        base = next((cls.__name__ for cls in classes if isinstance(layer, cls)), None)
        kind = type(layer).__name__
        return f"{kind} is a subclass of nn.{base}" if base else f"{kind} is neither nn.Linear nor nn.Conv2d"
    if "forward" in vars(layer):
        return "its forward has been replaced"
    if isinstance(layer, TRANSPOSED) and layer.groups != 1:
        return "it is a transposed convolution in groups"
    if computed := [name for name in ("weight", "bias") if name not in layer._parameters]:
        hooks = ", ".join(type(hook).__name__ for hook in layer._forward_pre_hooks.values()) or "somebody"
        return f"its {' and '.join(computed)} is computed by {hooks}"
    if taken := sorted(OWN_NAMES & _names(layer)):
        return f"its own {' and '.join(taken)} would be overwritten"
    if not layer.weight.is_floating_point():
        return f"its weight is of {layer.weight.dtype}"
    kind = type(layer._parameters["weight"])
    if issubclass(kind, Tensor) and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"its weight is {kind.__name__}, quantized or otherwise no plain tensor: compress_ first, quantize_ then"
    return None


def plain_batchnorm(module: nn.Module) -> bool:
    """Return whether a module computes what ``nn.BatchNorm1d`` or ``nn.BatchNorm2d`` does, subclass or not."""
    if not isinstance(module, BATCHNORMS) or "forward" in vars(module):
        return False
    cls = type(module)
    own = cls.forward is nn.BatchNorm2d.forward and cls.__call__ is nn.Module.__call__
    own = own and {"weight", "bias"} <= module._parameters.keys() and not hasattr(cls, "weight")
    return own and OWN_NAMES.isdisjoint(_names(module))


def why_no_norm(module: nn.Module) -> str | None:
    """Return why a module cannot be a norm over its last dimension alone, as far as can be seen without a run."""
    own = {name: p for name, p in module._parameters.items() if p is not None}
    if not own.keys() or not {"weight"} <= own.keys() <= {"weight", "bias"} or module._buffers or module._modules:
        return "it must have a weight, perhaps a bias, and nothing else"
    if any(p.dim() != 1 or len(p) < 2 or not p.is_floating_point() or p.is_meta for p in own.values()):
        return "its weight must be a vector of floats"
    if "forward" in vars(module) or any(type(p) is not nn.Parameter for p in own.values()):
        return "its forward and its Parameters must be its own"
    taken = sorted(NORM_NAMES & _names(module) - {"weight", "bias"})
    return f"its own {' and '.join(taken)} would be overwritten" if taken else None


def _names(module: nn.Module) -> set[str]:
    """Return the names of what hangs on a module."""
    return {*vars(module), *module._parameters, *module._buffers, *module._modules}


def left_alone(model: nn.Module) -> dict[str, str]:
    """Return the modules that multiply by a weight which nothing here can store otherwise: name -> the reason."""
    attentions = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    parts = {part for attention in attentions for part in attention.modules() if part is not attention}
    found = {}
    for name, module in model.named_modules():
        if module in parts:
            continue
        if isinstance(module, nn.MultiheadAttention):
            found[name] = "its four projections are packed into one weight"
        elif isinstance(module, LAYERS) or _multiplies(module):
            found[name] = why_not_plain(module)
    return {name: reason for name, reason in found.items() if reason}


def _multiplies(module: nn.Module) -> bool:
    if isinstance(module, TABLES) or "Norm" in type(module).__name__:
        return False
    leaf = all(name == "parametrizations" for name in module._modules)
    matrices = (p for name, p in module.named_parameters() if "weight" in name)
    return leaf and any(p.dim() >= 2 and min(p.shape[:2]) > 1 for p in matrices)
