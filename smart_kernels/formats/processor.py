"""The abilities of the CPU at hand: the one place that asks, once in a process.

Two libraries are asked, for what each would run: oneDNN, whether it packs a weight of some dtype, and torch, up to
which vector instructions its kernels go. What they are limited to by ``ONEDNN_MAX_CPU_ISA`` and
``ATEN_CPU_CAPABILITY`` therefore limits everything here, vector code included.
"""

from functools import cache

import torch
from torch import Tensor

PACKED = (torch.float32, torch.bfloat16)
ABOVE = {
    "AVX2": ("avx512", "avx10"),
    "DEFAULT": ("avx", "fma"),
}  # torch's level -> what LLVM's names above it begin with


def onednn_takes(tensor: Tensor) -> bool:
    """Return whether oneDNN has packed products for tensors of this device and dtype."""
    return tensor.device.type == "cpu" and tensor.dtype in PACKED and _lacks(tensor.dtype) is None


def check_onednn(weight: Tensor, what: str) -> None:
    """Raise ValueError where oneDNN has no packed products for this weight; ``what`` needs them."""
    if weight.device.type != "cpu" or weight.dtype not in PACKED:
        raise ValueError(f"{what} needs float32 or bfloat16 on a CPU, got {weight.dtype} on {weight.device}")
    if reason := _lacks(weight.dtype):
        raise ValueError(f"{what} cannot be had: {reason}")


def onednn_lacks(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why weights that oneDNN could pack on another CPU cannot be packed on this one, None for all others."""
    return _lacks(dtype) if device.type == "cpu" and dtype in PACKED else None


@cache
def _lacks(dtype: torch.dtype) -> str | None:
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN"
    if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return f"oneDNN cannot pack bfloat16 on this processor{_refusal(dtype)}"


def _refusal(dtype: torch.dtype) -> str:
    """Return oneDNN's own words, which name the instructions that are missing."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(1, 1, dtype=dtype, device="cpu"))
    except RuntimeError as error:
        return f" ({str(error).splitlines()[0]})"
    return ""


def vector_level() -> str:
    """Return torch's name of the vector instructions that its kernels use here: "AVX512", "AVX2", "DEFAULT" ..."""
    return torch.backends.cpu.get_cpu_capability()


def allowed(features: dict[str, bool]) -> dict[str, bool]:
    """Return instruction sets (LLVM's name -> whether the processor has it), without those above torch's level.

    On another architecture than x86 nothing changes, whatever torch calls its level: no name begins so.
    """
    above = ABOVE.get(vector_level(), ())
    return {name: has and not name.startswith(above) for name, has in features.items()}
