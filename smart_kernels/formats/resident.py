"""How n:m values and indices lie in memory: as they are saved, or in the order of the one kernel that reads them."""

from torch import Tensor

from smart_kernels.ops.tensor_core import KERNELS, arrange, arrange_indices, restore, restore_indices
from smart_kernels.shapes import groups_of

# as saved; for sparse tensor cores, 2:4 in fp16 and bf16
LAYOUTS = ("rows", *KERNELS)
FORMER = "decode"  # of version 0.1.0: indices for few rows of x, which no longer have a kernel of their own


def resident(values: Tensor, indices: Tensor, layout: str, columns: int) -> tuple[Tensor, Tensor]:
    """Turn the saved form into ``layout``: another order, filled up with zeros. Differentiable in ``values``."""
    if layout in KERNELS:
        return arrange(values, layout), arrange_indices(indices, groups_of(columns, 4))
    return values, indices


def saved(values: Tensor, indices: Tensor, layout: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Undo ``resident`` for a weight (rows, columns)."""
    if layout in KERNELS:
        groups = groups_of(columns, 4)
        return restore(values, layout, rows, groups), restore_indices(indices, rows, groups)
    return values, indices
