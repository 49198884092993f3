"""Which pruner a layer belongs to: two on one layer would overwrite each other's masks."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary, ref

from smart_kernels import Masked

_OWNERS: WeakKeyDictionary = WeakKeyDictionary()  # layer -> its scores, weak reference to whoever sets its masks


def claim(layers: Mapping[str, Masked], owner: object) -> None:
    """Note who sets the masks of these layers, for as long as that object lives or until ``release``.

    Raises:
        ValueError: another one does.
    """
    taken = [name for name, layer in layers.items() if _is_taken(layer)]
    if taken:
        raise ValueError(
            f"a model must have one pruner, got a second one for {', '.join(taken)}: "
            "finalize() or delete the first, or use it"
        )
    _OWNERS.update({layer: (layer.scores, ref(owner)) for layer in layers.values()})


def release(layers: Mapping[str, Masked]) -> None:
    """Let others have these layers."""
    for layer in layers.values():
        _OWNERS.pop(layer, None)


def _is_taken(layer: Masked) -> bool:
    scores, owner = _OWNERS.get(layer, (None, None))
    return scores is layer.scores and owner() is not None
