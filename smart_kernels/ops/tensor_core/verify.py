"""Whether the sparse tensor-core kernels are right on this device, found by running them.

The kernels are Gluon, which triton calls experimental, with PTX inside. So nothing is chosen because of a version: the
device must fit, Gluon must import, and the first use compares the product with the plain formula.
"""

import functools

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from .device import lacks, supported
from .launch import matmul
from .packing import BYTES, TYPES, pack
from .tuning import forced, offered

_exact: set[tuple[torch.device, str, torch.dtype]] = set()
TRIALS = (200, 256, 640), (300, 500, 1092)  # M, N, K: no edges along N and K; edges everywhere
SHARED = (5, 130, 2500)  # programs of mma.sp share the columns of a block, in the configuration that is for this


@functools.cache
def verified(device: torch.device | str, kernel: str = "mma", dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Return why ``kernel`` must not be used on ``device``; None after it has proved right.

    All its configurations then have computed random integers exactly, with edges and without, columns shared or not.
    Remembered per process; compiles much and synchronises.
    """
    if (reason := supported(device, kernel)) is not None:
        return reason
    if dtype not in TYPES | BYTES:
        return f"sparse tensor-core kernels take {[*TYPES, *BYTES]} weights, got {dtype}"
    if kernel == "mma" and (reason := lacks(device, dtype)) is not None:
        return reason
    device = torch.device(device)
    version = f"triton {triton.__version__}"
    try:
        configs = offered(kernel, dtype)
        for config in configs:
            for shape in (*TRIALS, SHARED) if kernel == "mma" and config is configs[0] else TRIALS:
                if not _right(device, kernel, config, shape, dtype):
                    return f"{kernel} is wrong with {version}, {dtype} at M, N, K = {shape}: {config}"
    except Exception as error:  # whatever a triton to come may raise
        return f"{kernel} does not run with {version}: {type(error).__name__}: {error}"[:200]
    _exact.add((device, kernel, dtype))
    return None


def exact(device: torch.device, kernel: str, dtype: torch.dtype) -> bool:
    """Return whether ``verified`` has found the kernel right.

    It runs nothing: a constant for ``torch.compile``, which traces anew when it changes.
    """
    return (device, kernel, dtype) in _exact


def integers(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw x, values, indices, bias and residual of M, N, K, and compute relu(x @ W.T + bias + residual).

    All are integers: exact but for the rounding to ``dtype``, in any order of the sums. For 8 bits the sums are
    multiplied by ``scales``, and what is added and the result are bf16.
    """
    M, N, K = shape
    draw = functools.partial(torch.randint, device=device)
    groups = -(-K // 4)
    values = draw(-4, 5, (N, 2 * groups))
    first = draw(0, 3, (N, groups))
    second = first + 1 + draw(0, 3, (N, groups)) % (3 - first)
    x, bias, residual = (draw(-4, 5, size) for size in ((M, K), (N,), (M, N)))
    places = 4 * torch.arange(groups, device=device)[:, None] + torch.stack([first, second], -1)
    dense = torch.zeros(N, 4 * groups, device=device, dtype=torch.float64).scatter_(
        1, places.flatten(1), values.double()
    )
    scale = scales(N, dtype, device)
    wide = dtype if dtype in TYPES else torch.bfloat16
    y = x.double() @ dense[:, :K].T * (1 if scale is None else scale.double())
    y = (y + bias + residual).relu()
    return x.to(dtype), values.to(dtype), _indices(first, second), bias.to(wide), residual.to(wide), y.to(wide)


def _indices(first: Tensor, second: Tensor) -> Tensor:
    """Save the two places of each group, (N, G) each, as 2:4 weights do."""
    nibbles = F.pad(first + 4 * second, (0, first.shape[1] % 2), value=4).unflatten(1, (-1, 2))
    return (nibbles[..., 0] + 16 * nibbles[..., 1]).to(torch.uint8)


def scales(N: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return (N,) powers of two, one per output of an 8-bit product; None for the others."""
    return None if dtype in TYPES else 2.0 ** (torch.arange(N, device=device) % 3 - 1)


def _right(device, kernel: str, config: triton.Config, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    x, values, indices, bias, residual, expected = integers(shape, dtype, device)
    try:
        with forced(kernel, config):
            scale = scales(shape[1], dtype, x.device)
            y = matmul(x, pack(values, indices, kernel), bias, residual, "relu", scale, expected.dtype)
    except OutOfResources:
        return True  # the tuner drops it
    return torch.equal(y, expected)
