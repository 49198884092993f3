"""The masks that the layers of a model carry, whoever chooses them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smart_kernels import GroupGate, HardGate, Masked, SoftGate
from smart_kernels.nn import Prepared

from .local import LocalPool
from .pool import Pool
from .ranked import RankedPool
from .sharing import Sharing
from .softened import Softened

Masks = dict[str, Tensor]
Gate = HardGate | SoftGate | GroupGate | None


class CarriedMasks:
    """The half of ``MaskedModel`` that puts masks on its layers.

    Attributes:
        sharing: layers by name, those that share scores together.
        layers: the first of each, which stands for all of them.
        pools: who competes with whom.
    """

    def __init__(self, sharing: Sharing, pools: list[Pool]):
        self.sharing = sharing
        self.layers: dict[str, Masked] = {name: layers[name] for name, layers in sharing.items()}
        self.pools = pools
        self.ranked = [pool for pool in pools if isinstance(pool, RankedPool)]
        self.local = [pool for pool in pools if isinstance(pool, LocalPool)]
        self.softened = Softened(self.ranked) if self.ranked else None
        self.prepared = Prepared()
        self.changed: Tensor | None = None  # masks for which nothing has been prepared

    def set_gates(self, gates: Mapping[str, Gate]) -> None:
        """Give each layer, and those that share its scores, its gate; None is no mask."""
        for name, gate in gates.items():
            for layer in self.sharing[name].values():
                layer.carry(gate)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Multiply the layers' weights by these (rows, cols) masks."""
        views = self._in_one_piece(masks)
        self.set_gates({name: HardGate(view) for name, view in views.items()})

    def soften(self, keep: Tensor, temperature: Tensor, straight_through: bool = False) -> None:
        """Multiply the layers' weights by soft masks, of which the scores learn.

        Args:
            keep: (ranked pools,) float64 budgets; N:M groups keep n whatever it says.
            temperature: 0-d float64, above 0, in units of the scores.
            straight_through: N:M only; multiply by the hard mask, with the gradient of the soft one.
        """
        for pool in self.local:
            self.set_gates(pool.gates(temperature, straight_through))
        if self.softened is not None:
            self.changed, masks = self.softened.masks(keep, temperature)
            self._set_soft(masks)

    def soft_masks(self, keep: Tensor, temperature: Tensor) -> Masks:
        """Return the (rows, cols) soft masks for the scores as they are now; see ``soften``."""
        found = {} if self.softened is None else self.softened.masks_now(keep, temperature)
        for pool in self.local:
            found |= pool.soft_masks(temperature)
        return found

    def prepare(self) -> None:
        """Prepare what the products of a step read, once its masks are set: lists only of masks that have changed."""
        if self.changed is None:
            self.prepared.pack()
            return
        self.prepared.renew((layer for layers in self.sharing.values() for layer in layers.values()), self.changed)
        self.changed = None

    @torch.no_grad()
    def masks(self) -> Masks:
        """Return the values of the masks that the layers carry, 1 where there is none. ``GroupGate`` stores none."""
        found = {}
        for name, layer in self.layers.items():
            size = {"dtype": layer.scores.dtype, "device": layer.scores.device}
            found[name] = torch.ones(layer.scores.shape, **size) if layer.gate is None else layer.gate.mask.detach()
        return found

    def mask_state(self) -> dict[str, Any]:
        """Return the thresholds of the pools, and the masks by layer: as bool where they are 0 and 1."""
        masks = {}
        for name, layer in self.layers.items():
            gate = layer.gate
            if isinstance(gate, SoftGate):
                masks[name] = gate.mask.detach()
            elif isinstance(gate, HardGate) and not gate.mask.requires_grad:
                masks[name] = gate.mask.bool()
        thresholds = [] if self.softened is None else self.softened.thresholds()
        return {"thresholds": [*thresholds, *[None] * len(self.local)], "masks": masks}

    def load_mask_state(self, taken: Mapping[str, Any]) -> None:
        """Take up what ``mask_state`` returned; layers without a mask are left without any."""
        if self.softened is not None:
            self.softened.start_from(taken["thresholds"][: len(self.ranked)])
        self.set_gates(dict.fromkeys(self.layers))
        hard = {name: mask.float() for name, mask in taken["masks"].items() if mask.dtype == torch.bool}
        soft = {name: mask for name, mask in taken["masks"].items() if mask.dtype != torch.bool}
        if hard:
            self.set_masks(hard)
        if soft:
            self._set_soft(self._in_one_piece(soft))

    def resume_search(self, masks: Masks, temperature: float, straight_through: bool) -> None:
        """Put soft masks on the layers that a loaded state has left without any: N:M, and all in files without them.

        Args:
            masks: of the ranked layers, for the scores as they are.
            temperature, straight_through: see ``soften``.
        """
        for pool in self.local:
            at = torch.tensor(temperature, dtype=torch.float64).to(next(iter(pool.layers.values())).scores.device)
            self.set_gates(pool.gates(at, straight_through))
        bare = {name: masks[name] for name, layer in self.layers.items() if layer.gate is None}
        if bare:
            self._set_soft(self._in_one_piece(bare))

    def _set_soft(self, masks: Mapping[str, Tensor]) -> None:
        for pool in self.ranked:
            eps = pool.eps
            self.set_gates({name: SoftGate(masks[name], eps) for name in pool.layers if name in masks})

    def _in_one_piece(self, masks: Mapping[str, Tensor]) -> Masks:
        """Return the masks as views of one tensor on the device of the scores."""
        devices = (self.layers[name].scores.device for name in masks)
        self.changed = torch.cat(
            [mask.flatten().to(device) for mask, device in zip(masks.values(), devices, strict=True)]
        )
        parts = self.changed.split([mask.numel() for mask in masks.values()])
        return {name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}
