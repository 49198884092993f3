"""A rehearsal of pruning and slimming, on a copy: what ``slim_`` will not do is known before the training."""

import copy

import torch
from torch import Tensor, nn

from smart_kernels.nn import TRANSPOSED, LiveNorm, Masked, Sparse

from .couple import Group, coupled
from .follow import Follower
from .numbers import Number
from .places import Place
from .remove import remove_


def rehearsed(model: nn.Module, chosen: dict[str, nn.Module], example_input) -> tuple[list[Group], dict[str, None]]:
    """Find ``coupled`` layers of which pruned channels can really be removed.

    About half of the channels of each group, at random, are pruned and removed from a copy of the model, and its
    outputs are compared. Channels that it does not run without stay. A model that is masked in part already is not
    rehearsed.

    Returns:
        the groups, and a line for everything that stays.

    Raises:
        ValueError: the output shows no tensor, or that of the smaller copy differs.
    """
    held: frozenset[Place | Number] = frozenset()
    while True:
        found = Follower(model, held).run(example_input)
        groups = coupled(found, model, chosen)
        if not groups or any(isinstance(module, Masked | Sparse) for module in model.modules()):
            return groups, found.notes
        try:
            copies = _copies(model)
        except Exception as error:  # modules may hold anything
            return groups, found.notes | {f"what slim_ will do is not known, the model cannot be copied: {error}": None}
        more, freed = _rehearse(model, groups, copies, example_input, held)
        if more == held:
            return freed, found.notes | _lost(model, groups, freed)
        held = more


def _copies(model: nn.Module) -> dict:
    """Return a copy that shares nothing, as id -> copy of the model and of all in it."""
    computed = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    copies: dict = {id(t): t.detach().clone() for t in computed}  # what autograd made cannot be copied otherwise
    copy.deepcopy(model, copies)
    return copies


def _rehearse(model: nn.Module, groups: list[Group], copies: dict, example_input, held: frozenset[Place]):
    """Prune half of each group in the copy and remove it; return all places that hold, and the groups that went."""
    generator = torch.Generator().manual_seed(0)
    rows: dict[nn.Module, Tensor] = {}
    for group in groups:
        dead = _half(group, generator)
        for module, index in (*group.layers, *(member for member, _ in group.norms)):
            rows[module] = (index >= 0) & dead[index]
            _prune_(copies[id(module)], rows[module])
    try:
        removed = remove_(copies[id(model)], example_input, held)
    except ValueError as error:
        raise ValueError(f"slim_ could not remove what is pruned from this model: {error}") from error
    kept = {module: int((~dead).sum()) for module, dead in rows.items()}
    freed = [g for g in groups if all(len(_rows(copies[id(m)])) <= kept[m] for m, _ in g.layers)]
    return removed.held, freed


def _half(group: Group, generator: torch.Generator) -> Tensor:
    """Return (size,) bool, half of the scores of a group, but not all of a layer.

    One less of a width: half of the heads and half of the width may be as many channels, and hide that one is taken
    for the other.
    """
    dead = torch.zeros(group.size, dtype=torch.bool)
    count = group.size // 2 - any(isinstance(member.module, LiveNorm) for member, _ in group.norms)
    dead[torch.randperm(group.size, generator=generator)[:count]] = True
    for _, index in group.layers:
        if dead[index[index >= 0]].all():
            dead[index.max()] = False
    return dead


@torch.no_grad()
def _prune_(module: nn.Module, dead: Tensor) -> None:
    if isinstance(module, LiveNorm):
        module.keep_live(~dead.to(module.weight.device))
        return
    for tensor in (_rows(module), module.bias):
        if tensor is not None:
            tensor[dead.to(tensor.device)] = 0


def _rows(module: nn.Module) -> Tensor:
    """View the weight with output channels first."""
    return module.weight.transpose(0, 1) if isinstance(module, TRANSPOSED) else module.weight


def _lost(model: nn.Module, groups: list[Group], freed: list[Group]) -> dict[str, None]:
    lost = {module for group in groups if not any(group is each for each in freed) for module, _ in group.layers}
    names = [name for name, module in model.named_modules() if module in lost]
    return {f"{name} stays dense: what follows does not leave its pruned channels 0": None for name in names}
