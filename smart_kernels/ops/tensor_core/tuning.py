"""The tuned kernels and their configurations. They are imported late: not every triton has their Gluon."""

from contextlib import AbstractContextManager

import torch
import triton
from triton.runtime.autotuner import Autotuner

from smart_kernels.ops.common import plan

from .packing import BYTES


def offered(kernel: str, dtype: torch.dtype) -> list[triton.Config]:
    """Return the configurations that may be chosen for some shape."""
    from smart_kernels.kernels.tensor_core import mma as sparse_mma
    from smart_kernels.kernels.tensor_core import wgmma as sparse_wgmma

    configs = tuner(kernel).configs
    if kernel == "mma":
        return [c for c in configs if dtype != torch.float8_e4m3fn or sparse_mma.few_sums(c)]
    return [c for c in configs if dtype not in BYTES or sparse_wgmma.few_sums(c)]


def forced(kernel: str, config: triton.Config) -> AbstractContextManager[None]:
    """Launch ``kernel`` with this configuration, untuned."""
    return plan.forced(tuner(kernel), config)


def tuner(kernel: str) -> Autotuner:
    """Return the tuned kernel behind a name of ``KERNELS``."""
    from smart_kernels.kernels.tensor_core import mma as sparse_mma
    from smart_kernels.kernels.tensor_core import wgmma as sparse_wgmma

    return sparse_mma.sparse_mma_kernel if kernel == "mma" else sparse_wgmma.sparse_wgmma_kernel
