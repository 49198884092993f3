"""The sparse tensor-core kernels in the census: their cases, targets and budgets.

Instructions per 64 columns, written down before the kernels, from a first version of each (triton 3.6, no spill):

    mma.sp     products + an LDSM.x4 for four of them and one for the metadata + 8 LDS.128 of W + copies + 36
    wgmma.sp   41 with W from shared memory, 57 with W from registers

    int8, fp8  per 128 columns, mma.sp: an LDS.128 of metadata and 8 bytes a row of W more, and 4 additions per product
               of fp8; wgmma.sp: the load of a second word of metadata and its move, and an addition per sum of fp8

Since products stay in flight (decision 0050), a step of wgmma.sp is two groups. Written down before that kernel, from
the counts above:

    PART       the second group: fence, commit, wait, its address in shared memory (2 with W from there) and 2 for the
               arrival at the stage before, whose number is kept
    fp8        each group is half of the sums and both products: 2 more of these, each with a descriptor of x (2) and of
               W (1)

A share of K, where programs split it, changes nothing in the loop of mma.sp. FEW: blocks of 16 rows of x leave out rows
that are not there, a predicate for each 16 bytes that a thread copies of x.

plus the margin of ``budget``. A term of 2 for GELU, added when 45 instructions were seen where 43 were allowed, is
taken back: it was for the erf beside 256 rows of x, which spills with triton 3.9 and is not offered any more.
The compiler fills the loop with NOP on sm_100 and sm_120; they are allowed, PADDING of the products.
"""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from unittest import mock

import torch

from smart_kernels.ops import tensor_core as sparse_tensor_core

from . import budget as dense

TARGETS = {"sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376}
INSTRUCTION = {"sparse_mma_kernel": "MMA.SP", "sparse_wgmma_kernel": "GMMA.SP"}
LETTER = {"int8": "I", "fp8": "Q"}
BYTES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
WGMMA = {"True": 41, "False": 57}  # by whether W lies in shared memory
PART = 7
FP8 = {"True": 2 * 4, "False": 2 * 3}  # as WGMMA
MMA_FIXED = 36
PROCESSORS = 132  # of the GPU that the cases are for: few rows of x split K
COUNTED = "smart_kernels.ops.tensor_core.device.processors"
FEW_ROWS = 16  # rows of x in the smallest block
FEW = 1  # instructions for each copy of them
PADDING = {"sm_100": 0.8, "sm_120": 0.8}

# of mma.sp; elsewhere ptxas converts fp8 to fp16 first
MULTIPLIES = {"int8": tuple(TARGETS), "fp8": ("sm_89", "sm_120")}
K_TAIL = 6  # what is left of K, compared with the columns a thread copies; 6 more in each of nine configurations


def _packed(kernel: str, dtype: torch.dtype, N: int, K: int) -> sparse_tensor_core.PackedWeight:
    values = torch.zeros(N, K // 2).to(dtype)
    indices = torch.full((N, K // 8), 0x44, dtype=torch.uint8)
    return sparse_tensor_core.pack(values, indices, kernel)


def _matmul(kernel: str, dtype: torch.dtype, M: int = 4096, K: int = 1024, **epilogue) -> None:
    x = torch.zeros(M, K, dtype=dtype)
    with mock.patch(COUNTED, lambda device: PROCESSORS):
        sparse_tensor_core.matmul(x, _packed(kernel, dtype, 1024, K), **epilogue)


def _quantized(
    kernel: str, dtype: torch.dtype, M: int = 4096, K: int = 2048, out: torch.dtype = torch.bfloat16
) -> None:
    N = 1024
    bias = torch.zeros(N, dtype=torch.bfloat16)
    settings = {"scale": torch.ones(N), "dtype": out}
    x = torch.zeros(M, K).to(dtype)
    with mock.patch(COUNTED, lambda device: PROCESSORS):
        sparse_tensor_core.matmul(x, _packed(kernel, dtype, N, K), bias, None, "relu", **settings)


def _cases() -> dict[str, Callable[[], None]]:
    cases = {}
    for kernel in sparse_tensor_core.KERNELS:
        name = f"sparse {kernel}"
        bias = torch.zeros(1024, dtype=torch.bfloat16)
        cases[f"{name} bf16"] = partial(_matmul, kernel, torch.bfloat16)
        cases[f"{name} fp16"] = partial(_matmul, kernel, torch.float16)
        cases[f"{name} bf16 gelu"] = partial(_matmul, kernel, torch.bfloat16, bias=bias, activation="gelu")
        cases[f"{name} bf16 M=64"] = partial(_matmul, kernel, torch.bfloat16, M=64)
        cases[f"{name} bf16 K=1000"] = partial(_matmul, kernel, torch.bfloat16, K=1000)
    cases["sparse mma bf16 M=1 K=8192"] = partial(_matmul, "mma", torch.bfloat16, M=1, K=8192, activation="gelu")
    cases["sparse mma bf16 M=16 K=8184"] = partial(_matmul, "mma", torch.bfloat16, M=16, K=8184)
    for name, dtype in BYTES.items():
        cases[f"sparse mma {name} M=1 K=8192"] = partial(_quantized, "mma", dtype, M=1, K=8192)
        cases[f"sparse mma {name}"] = partial(_quantized, "mma", dtype)
        cases[f"sparse mma {name} M=64"] = partial(_quantized, "mma", dtype, M=64)
        cases[f"sparse mma {name} K=2000"] = partial(_quantized, "mma", dtype, K=2000)
        for kernel in ("wgmma_ss", "wgmma_rs"):
            cases[f"sparse {kernel} {name}"] = partial(_quantized, kernel, dtype)
            cases[f"sparse {kernel} {name} M=64"] = partial(_quantized, kernel, dtype, M=64)
            cases[f"sparse {kernel} {name} fp32 out"] = partial(_quantized, kernel, dtype, out=torch.float32)
    return cases


CASES = _cases()


def applies(case: str, target: str, everywhere: Mapping[str, int]) -> bool:
    """Whether a case is compiled for a target; ``everywhere`` are the targets of all other cases."""
    if case not in CASES:
        return target in everywhere
    if "wgmma" in case:
        return target == "sm_90"
    eight = eight_bits(case)
    return target in (MULTIPLIES[eight] if eight else TARGETS)


def eight_bits(case: str) -> str | None:
    """Return "int8" or "fp8"; None for 16 bits."""
    return next((name for name in BYTES if name in case), None)


def budget(row: dict) -> int | None:
    """Return the limit of instructions in the loop, which does several steps of 64 columns where it is unrolled."""
    if row.get("loop") is None or row["kernel"] not in INSTRUCTION:
        return None
    size = {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", row["config"])}
    eight = eight_bits(row["case"])
    if row["kernel"] == "sparse_wgmma_kernel":
        products = 2
        shared = re.search(r"W_SHARED=(\w+)", row["config"])[1]
        step = WGMMA[shared] + PART + 2 * bool(eight)
        if eight == "fp8":
            products = 4
            step += size["BLOCK_M"] // 2 + FP8[shared]
    else:
        products = size["BLOCK_M"] // size["WARPS_M"]  # 4 tiles of 16 rows, 2 halves of 32 columns, 8 rows of x each
        bytes_ = (80 if eight else 72) * size["BLOCK_N"] + 128 * size["BLOCK_M"]
        copies = math.ceil(bytes_ / (512 * size["WARPS_N"] * size["WARPS_M"]))
        step = products * (1.25 + PADDING.get(row["target"], 0)) + 9 + copies + MMA_FIXED
        step += K_TAIL * ("EVEN_K=False" in row["config"]) + bool(eight) + 4 * products * (eight == "fp8")
        if size["BLOCK_M"] == FEW_ROWS:
            step += FEW * math.ceil(FEW_ROWS * 128 / (512 * size["WARPS_N"] * size["WARPS_M"]))
    return math.floor(dense.MARGIN * step * max(1, row["tensor_core"] // products))


def traffic(row: dict) -> float | None:
    """Return the bytes that a step reads from L2 for a thousand FLOP of the dense product; None where it has none.

    Values, metadata and x of one block, each once: nothing is shared between multiprocessors.
    """
    if row["kernel"] not in INSTRUCTION:
        return None
    size = {name: int(n) for name, n in re.findall(r"(\w+)=(\d+)", row["config"])}
    eight = eight_bits(row["case"])
    rows = size.get("BLOCK_N", 128)
    bytes_ = (80 if eight else 72) * rows + 128 * size["BLOCK_M"]
    return 1000 * bytes_ / (2 * rows * size["BLOCK_M"] * (128 if eight else 64))


def faults(row: dict) -> list[str]:
    """Say what else is wrong with a row of these kernels."""
    if row["kernel"] not in INSTRUCTION:
        return []
    found: list[str] = []
    wanted = LETTER.get(eight_bits(row["case"]), "H") + INSTRUCTION[row["kernel"]]
    if not row["instruction"].startswith(wanted):
        found.append(f"no {wanted} in the matrix loop, but {row['instruction'] or 'nothing'}")
    if row["budget"] is not None and row["loop"] > row["budget"]:
        found.append(f"{row['loop']} instructions in the matrix loop, budget {row['budget']}")
    if row["kernel"] == "sparse_mma_kernel" and row["asynchronous"] < row["wide_loads"] + row["narrow_loads"]:
        found.append("copies go through registers (LDG, STS), not pipelined")
    return found
