"""The vocabulary under all floors: tiles of a mask, groups of n:m, the geometry of a convolution."""

from . import tiles
from .conv import Conv, pair
from .groups import groups_of, index_bits

__all__ = ["Conv", "groups_of", "index_bits", "pair", "tiles"]
