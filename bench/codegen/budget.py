"""How many instructions the innermost matrix loop may have, written down before the kernels.

The best count measured for a tile (sm_90, bf16, 16-byte copies, no spill) plus 5 %. For a tile without one, the same
fit of those counts that follows, plus 5 %:

    FIXED + PER_COPY * copies + matrix instructions (+ PER_MMA more for each mma.sync)

copies: 16-byte loads per thread that bring the two operands of one step. Each costs its own issue and the update and
    bound of its address.
matrix instructions: wgmma issues one for 64 x BLOCK_N x 16; mma.sync one for 16 x 8 x 16 and its share of the LDSM
    that fetch the operands (one LDSM.x4 feeds two to four).
FIXED: barrier, wait, rotation of the buffers, the index that is loaded one step ahead, the branch.

AMD has no budget: no count was measured there.
"""

import math
import re

MARGIN = 1.05
MEASURED = {  # (kind, BLOCK_M, BLOCK_N, BLOCK_K, warps): instructions on sm_90
    ("matmul", 128, 128, 64, 4): 105,
    ("matmul", 128, 128, 64, 8): 88,
    ("matmul", 128, 256, 64, 8): 103,
    ("matmul", 256, 128, 64, 8): 108,
    ("matmul", 128, 64, 64, 4): 98,
    ("matmul", 64, 64, 64, 4): 77,
    ("matmul", 128, 16, 64, 4): 114,
    ("matmul", 128, 32, 64, 4): 116,
    ("grad", 64, 64, 64, 4): 95,
    ("grad", 64, 128, 128, 8): 96,
}
FIXED, PER_COPY, PER_MMA = 64, 2.5, 0.6
KINDS = {"block_matmul_kernel": "matmul", "block_grad_kernel": "grad", "weight_grad_kernel": "grad"}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def kind(row: dict) -> str | None:
    """ "matmul" (the loop runs over K) or "grad" (over M); None for kernels without a matrix product."""
    return KINDS.get(row["kernel"])


def shape(row: dict) -> dict[str, int]:
    """BLOCK_M, BLOCK_N, BLOCK_K and warps of a row."""
    found = {name: int(n) for name, n in re.findall(r"(BLOCK_[MNK])=(\d+)", row["config"])}
    return found | {"warps": int(re.search(r"\bw(\d+)\b", row["config"])[1])}


def copies(row: dict, threads_per_warp: int = 32) -> float:
    """16-byte loads per thread and step."""
    s = shape(row)
    rows, depth = (s["BLOCK_M"] + s["BLOCK_N"], s["BLOCK_K"])
    if kind(row) == "grad":
        rows, depth = (s["BLOCK_N"] + s["BLOCK_K"], s["BLOCK_M"])
    return rows * depth * BYTES[dtype(row)] / (16 * threads_per_warp * s["warps"])


def dtype(row: dict) -> str:
    return next((name for name in BYTES if name in row["case"]), "bf16")


def budget(row: dict) -> int | None:
    """The limit for one row of the census; None where there is none."""
    if row.get("loop") is None or kind(row) is None:
        return None
    s = shape(row)
    measured = MEASURED.get((kind(row), *s.values()))
    if measured and row["target"] == "sm_90" and dtype(row) != "fp32":
        return math.floor(MARGIN * measured)
    synchronous = not row["instruction"].startswith("HGMMA")
    matrix = row["tensor_core"] * (1 + PER_MMA * synchronous)
    return math.floor(MARGIN * (FIXED + PER_COPY * copies(row) + matrix))
