"""Products with stored tiles of any size, read where they are."""

from .decode import block_decode_kernel
from .gather import block_gather_kernel

__all__ = ["block_decode_kernel", "block_gather_kernel"]
