"""Attentions become ``SplitAttention`` where one of their projections is to be pruned."""

import logging
from collections.abc import Callable

from torch import nn

from smart_kernels.nn import Pieces, packed, projections, split_, why_not_split

from .graph import users_of_weights

logger = logging.getLogger("smart_kernels")


def split_attention_(model: nn.Module, chosen: Callable[[nn.Module, str], bool]) -> None:
    """Split each ``nn.MultiheadAttention`` of which ``chosen(linear, name)`` wants a projection, in place.

    One that cannot be split is left alone with one line in the log.
    """
    pieces: Pieces = {}
    wanted = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention) and _wanted(name, module, chosen, pieces):
            wanted[name] = module
    users = users_of_weights(model)
    while outside := _shared_outside(wanted, users):
        for name, others in outside.items():
            logger.warning("%s stays dense: its weight is also used by %s", name, ", ".join(others))
            del wanted[name]
    for module in wanted.values():
        split_(module, pieces)


def _wanted(name: str, attention: nn.MultiheadAttention, chosen, pieces: Pieces) -> bool:
    reason = why_not_split(attention)
    if reason:  # what the filter would be asked about cannot be made; something of its size can
        E = attention.embed_dim
        linears = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), nn.Linear(E, E, device="meta"))
    else:
        linears = projections(attention, pieces)
    if not any(chosen(linear, f"{name}.{part}".lstrip(".")) for part, linear in linears.items()):
        return False
    if reason:
        logger.warning("%s stays dense: %s", name, reason)
    return not reason


def _shared_outside(wanted: dict[str, nn.Module], users: dict[int, list[str]]) -> dict[str, list[str]]:
    """Return the attentions whose packed weights somebody uses who will not be split, with those."""
    found = {}
    for name, module in wanted.items():
        if others := [user for p in packed(module) for user in users[id(p)] if user not in wanted]:
            found[name] = others
    return found
