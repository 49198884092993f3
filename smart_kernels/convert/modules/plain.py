"""Which layers are what their class says, and why the others are left alone."""

import torch.nn.utils.prune as torch_prune
from torch import nn
from torch.nn.utils import parametrize

LAYERS = (nn.Linear, nn.Conv2d)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
TABLES = (nn.Embedding, nn.EmbeddingBag)  # weights that are looked up, not multiplied


def why_not_plain(layer: nn.Module) -> str | None:
    """Return why a layer cannot be changed, or None: it must compute what ``nn.Linear`` or ``nn.Conv2d`` does, from
    Parameters of its own that nothing recomputes."""
    if parametrize.is_parametrized(layer):
        kinds = [type(part).__name__ for parts in layer.parametrizations.values() for part in parts]
        return f"its {' and '.join(layer.parametrizations)} is parametrized ({', '.join(kinds)})"
    if type(layer) not in LAYERS:
        base = next((cls.__name__ for cls in LAYERS if isinstance(layer, cls)), None)
        kind = type(layer).__name__
        return f"{kind} is a subclass of nn.{base}" if base else f"{kind} is neither nn.Linear nor nn.Conv2d"
    if "forward" in vars(layer):
        return "its forward has been replaced"
    if computed := [name for name in ("weight", "bias") if name not in layer._parameters]:
        hooks = ", ".join(type(hook).__name__ for hook in layer._forward_pre_hooks.values()) or "somebody"
        return f"its {' and '.join(computed)} is computed by {hooks}"
    return None


def plain_batchnorm(module: nn.Module) -> bool:
    """Return whether a module computes what ``nn.BatchNorm1d`` or ``nn.BatchNorm2d`` does, subclass or not."""
    if not isinstance(module, BATCHNORMS) or "forward" in vars(module):
        return False
    cls = type(module)
    own = cls.forward is nn.BatchNorm2d.forward and cls.__call__ is nn.Module.__call__
    return own and {"weight", "bias"} <= module._parameters.keys() and not hasattr(cls, "weight")


def left_alone(model: nn.Module) -> dict[str, str]:
    """Return the modules that multiply by a weight which nothing here can store otherwise: name -> the reason."""
    parts = {part for m in model.modules() if isinstance(m, nn.MultiheadAttention) for part in m.modules() if part is not m}
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


def bake_torch_masks_(model: nn.Module, modules: list[nn.Module]) -> None:
    """Make masks of ``torch.nn.utils.prune`` on these modules permanent.

    A Parameter that others hold too is left as it is, unless all of them are masked alike.
    """
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            holders.setdefault(id(parameter), []).append((module, name))
    masked = [(module, name) for module in modules for name in _masked(module)]
    for module, name in [each for each in masked if _masked_alike(*each, holders)]:
        torch_prune.remove(module, name)


def _masked(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()
    return [hook._tensor_name for hook in hooks if isinstance(hook, torch_prune.BasePruningMethod)]


def _masked_alike(module: nn.Module, name: str, holders: dict) -> bool:
    mask = module._buffers[f"{name}_mask"]
    sharing = [other for other, held in holders[id(module._parameters[f"{name}_orig"])] if held == f"{name}_orig"]
    everybody = len(sharing) == len(holders[id(module._parameters[f"{name}_orig"])])
    return everybody and all(mask.equal(other._buffers[f"{name}_mask"]) for other in sharing)
