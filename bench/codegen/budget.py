"""How many instructions the innermost matrix loop may have, written down before the kernels.

The best count measured for a tile (triton 3.6, sm_90, bf16, 16-byte copies, no spill) plus MARGIN. For a tile without
one, the fit of those counts that follows, plus MARGIN:

    FIXED + PER_COPY * copies + matrix instructions (+ PER_MMA more for each mma.sync)

copies: 16-byte loads per thread that bring the two operands of one step. Each costs its own issue and the update and
    bound of its address.
matrix instructions: wgmma issues one for 64 x BLOCK_N x 16; mma.sync one for 16 x 8 x 16 and its share of the LDSM
    that fetch the operands (one LDSM.x4 feeds two).
FIXED: barrier, wait, rotation of the buffers, the branch; the index that is loaded one step ahead ("matmul") or the
    bound of M on both operands ("grad").
DECODE, HALO, CARRY: a convolution on top of that. Once per step the tap and its shift; for each 16-byte load of x that
    may lie beyond the edge, its bit and the zero-fill; in the gradient for each such load the position of its pixel,
    carried over columns, rows and images, and its bounds. (A comparison of both coordinates instead of the bit was
    measured at 10.5 per load: 206 against 122 at 128 x 128 x 64.)
ROTATION: a ring of buffers wraps by a mask where their number is a power of two, else by compare and select.

AMD has no budget: no count was measured there.
"""

import math
import re

import triton

# the counts are those of triton 3.6; another compiler makes others of the same source
MARGIN = 1.05 if triton.__version__.startswith("3.6.") else 1.25
MEASURED = {  # (kind, BLOCK_M, BLOCK_N, BLOCK_K, warps): instructions and stages on sm_90
    ("matmul", 128, 128, 64, 4): (105, 3),
    ("matmul", 128, 128, 64, 8): (88, 3),
    ("matmul", 128, 256, 64, 8): (103, 3),
    ("matmul", 256, 128, 64, 8): (108, 3),
    ("matmul", 128, 64, 64, 4): (98, 4),
    ("matmul", 64, 64, 64, 4): (77, 4),
    ("matmul", 128, 16, 64, 4): (114, 4),
    ("matmul", 128, 32, 64, 4): (116, 4),
    ("grad", 64, 64, 64, 4): (95, 4),
    ("grad", 64, 128, 128, 8): (96, 4),
}
DECODE, HALO, CARRY = 12, 5, 32
FIXED, PER_COPY, PER_MMA, ROTATION = {"matmul": 64, "grad": 72}, 2.5, 0.5, 4
KINDS = {"block_matmul_kernel": "matmul", "block_grad_kernel": "grad", "weight_grad_kernel": "grad"}
KINDS |= {"conv_matmul_kernel": "matmul", "conv_grad_kernel": "grad"}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def kind(row: dict) -> str | None:
    """ "matmul" (the loop runs over K) or "grad" (over M); None for kernels without a matrix product."""
    return KINDS.get(row["kernel"])


def shape(row: dict) -> dict[str, int]:
    """BLOCK_M, BLOCK_N, BLOCK_K, warps and stages of a row."""
    found = {name: int(n) for name, n in re.findall(r"(BLOCK_[MNK])=(\d+)", row["config"])}
    warps, stages = re.search(r"w(\d+) s(\d+)$", row["config"]).groups()
    return found | {"warps": int(warps), "stages": int(stages)}


def copies(row: dict, threads_per_warp: int = 32) -> float:
    """16-byte loads per thread and step."""
    s = shape(row)
    rows, depth = (s["BLOCK_M"] + s["BLOCK_N"], s["BLOCK_K"])
    if kind(row) == "grad":
        rows, depth = (s["BLOCK_N"] + s["BLOCK_K"], s["BLOCK_M"])
    return rows * depth * BYTES[dtype(row)] / (16 * threads_per_warp * s["warps"])


def convolution(row: dict) -> float:
    """Instructions per step that a convolution has more than a matrix product."""
    if not row["kernel"].startswith("conv"):
        return 0
    s = shape(row)
    loads = s["BLOCK_M"] * s["BLOCK_K"] * BYTES[dtype(row)] / (16 * 32 * s["warps"])
    return DECODE + loads * (CARRY if kind(row) == "grad" else HALO * ("HALO=True" in row["config"]))


def dtype(row: dict) -> str:
    return next((name for name in BYTES if name in row["case"]), "bf16")


def budget(row: dict) -> int | None:
    """The limit for one row of the census; None where there is none."""
    if row.get("loop") is None or kind(row) is None:
        return None
    tile = shape(row)
    measured = MEASURED.get((kind(row), *(tile[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "warps"))))
    if measured and row["target"] == "sm_90" and dtype(row) != "fp32":
        count, stages = measured
        wraps = ROTATION if tile["stages"] & (tile["stages"] - 1) and not stages & (stages - 1) else 0
        return math.floor(MARGIN * (count + wraps + convolution(row)))
    synchronous = not row["instruction"].startswith("HGMMA")
    matrix = row["tensor_core"] * (1 + PER_MMA * synchronous)
    return math.floor(MARGIN * (FIXED[kind(row)] + PER_COPY * copies(row) + matrix + convolution(row)))
