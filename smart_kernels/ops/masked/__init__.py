"""Products with a weight that is scaled, tile by tile, by a mask; dead tiles are skipped."""

from .conv2d import masked_conv2d
from .grouped import GroupedBlocks, GroupedLayer
from .linear import masked_linear
from .prepared import prepared_linear
from .smart_linear import smart_linear

__all__ = ["GroupedBlocks", "GroupedLayer", "masked_conv2d", "masked_linear", "prepared_linear", "smart_linear"]
