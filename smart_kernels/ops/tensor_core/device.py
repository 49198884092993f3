"""Which devices have the instructions of the sparse tensor-core kernels, and which kernel suits a device."""

import functools

import torch
import triton

from smart_kernels.ops.common.arguments import processors


def supported(device: torch.device | str, kernel: str = "mma") -> str | None:
    """Return why ``kernel`` cannot run on ``device``; None when it may, see ``verified``."""
    device = torch.device(device)
    if device.type != "cuda" or torch.version.hip is not None:
        return "sparse tensor-core instructions need an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if kernel == "mma" and major < 8:
        return f"mma.sp needs sm_80 or later, this is sm_{major}{minor}"
    if kernel != "mma" and (major, minor) != (9, 0):
        return f"wgmma.sp exists on sm_90 only, this is sm_{major}{minor}"
    return _no_gluon()


def lacks(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Return why ``device``, which has the instruction of 16 bits, lacks mma.sp of this dtype; None when it has it."""
    if dtype != torch.float8_e4m3fn:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) == (8, 9) or major == 12:
        return None
    return f"mma.sp of fp8 needs sm_89 or sm_12x, others convert it to fp16, this is sm_{major}{minor}"


def words_kernel(device: torch.device | str, dtype: torch.dtype) -> str:
    """Return which kernel multiplies 8-bit weights packed for "mma".

    On sm_90, which lacks mma.sp of fp8, wgmma.sp reads the same words.
    """
    hopper = torch.cuda.get_device_capability(device) == (9, 0)
    return "wgmma_rs" if hopper and lacks(device, dtype) is not None else "mma"


@functools.cache
def _no_gluon() -> str | None:
    """Return why the kernels cannot even be imported; None when they can."""
    try:
        import smart_kernels.kernels.tensor_core.mma
        import smart_kernels.kernels.tensor_core.wgmma  # noqa: F401
    except Exception as error:
        return f"triton {triton.__version__} has another Gluon: {type(error).__name__}: {error}"[:200]
    return None


__all__ = ["lacks", "processors", "supported", "words_kernel"]
