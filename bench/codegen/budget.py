"""How many instructions one step of the innermost matrix loop may have, written down before the kernels but for EDGE,
fence and the tf32 gradients.

The best count measured for a tile (sm_90, bf16, 16-byte copies, no spill) plus MARGIN. For a tile without one, the fit
of those counts that follows, plus MARGIN:

    FIXED + PER_COPY * copies + matrix instructions (+ PER_MMA more for each mma.sync) (+ fence) (+ gathering)

copies: 16-byte loads per thread that bring the two operands of one step. Each costs its own issue and the update and
    bound of its address. A descriptor ("tma") brings a whole operand; FIXED then holds what asks for it and waits.
matrix instructions: wgmma issues one for 64 x BLOCK_N x 16; mma.sync one for 16 x 8 x 16 and its share of the LDSM
    that fetch the operands (one LDSM.x4 feeds two).
FIXED: barrier, wait, rotation of the buffers, the branch; the index that is loaded one step ahead ("matmul",
    "decode"), the indices of the gathered blocks ("gather") or the bound of M on both operands ("grad").
fence: see ``fence``; part of the measured counts.
gathering: PER_INDEX for each copy of W, which may have a block of its own (the next index, its bound, its load, the
    address of the block, the mask), and once PIECES where blocks are cut or stop early: for each operand the quotient
    (3) and the remainder (4) of the index by a constant, and two bounds.
TAP, HALO, CARRY: a convolution on top of that. Once per step the tap and its shift; for each 16-byte load of x that
    may lie beyond the edge, its bit and the zero-fill; in the gradient for each such load the position of its pixel,
    carried over columns, rows and images, and its bounds. (A comparison of both coordinates instead of the bit was
    measured at 10.5 per load: 206 against 122 at 128 x 128 x 64.) A second index, the place of a block that is not
    stored in order, costs PER_INDEX.
TRANSPOSED: LDSM cannot transpose 4-byte elements, so a gradient in tf32 fetches each of the 16 registers of 8 products
    (32 x 32 of a warp, 8 deep) by an LDS of its own: 2 per mma.sync.
ROTATION: a ring of buffers wraps by a mask where their number is a power of two, else by compare and select.
EDGE: blocks that end inside a step mask the columns of x: what is left of the block (2), its comparison (1), joining it
    with the pipeline's own predicate (3), the column used twice (1). Measured
    in 13 tiles: 6 to 8 more (triton 3.6), 6 or 7 (3.9).

EDGE, fence, the second index, the counts of tf32 gradients, steps instead of loops and leaving out NOP came after the
first rows had failed; see docs/decisions/0014.

SCALED: in fp8 each step sums anew, and one multiply-add per sum scales it and adds it up in fp32; the scale costs its
    address, its load and the wait for it. Products are 32 deep. Derived, not measured.

PERSISTENT: a step of 64 columns of the persistent form is what one barrier hands over. Derived from sparse_wgmma
    (``sparse.py``: 41 with two products, their metadata and W from shared memory): 34 for the wait, the arrival at the
    stage before, fence, commit, wait, rotation and branch; PER_PRODUCT for each product with its two descriptors. A
    group does four products for each 64 rows of W, and has 128 of them where it multiplies by turns. Written before the
    kernel.

AMD has no budget: no count was measured there.
"""

import math
import re

import triton

from . import spread
from .measured import MEASURED

MARGIN = 1.05
FENCED = not triton.__version__.startswith("3.6.")  # newer ones fence what cp.async wrote before wgmma reads it
FIXED = {"matmul": 64, "tma": 92, "gather": 72, "decode": 60, "grad": 72}
PER_COPY = 2.5
PER_MMA = 0.5
ROTATION = 4
EDGE = 7
PER_INDEX = 5
PIECES = 16
TRANSPOSED = 2
KINDS = {"block_matmul_kernel": "matmul", "block_grad_kernel": "grad", "weight_grad_kernel": "grad"}
KINDS |= {"block_gather_kernel": "gather", "block_decode_kernel": "decode"}
KINDS |= {"semi_structured_kernel": spread.KIND, "semi_structured_conv_kernel": spread.KIND}
KINDS |= {"conv_matmul_kernel": "matmul", "conv_grad_kernel": "grad", "persistent_matmul_kernel": "persistent"}
TAP = 12
HALO = 5
CARRY = 32
SCALED = 6
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
PERSISTENT = 34
PER_PRODUCT = 5
LABEL = {"fp32": "tf32 ", "fp8": "fp8 ", "fp16": "", "bf16": ""}


def kind(row: dict) -> str | None:
    """Return "grad" where the loop runs over M, another where it runs over K; None without a matrix product."""
    return "tma" if "TMA=True" in row["config"] else KINDS.get(row["kernel"])


def shape(row: dict) -> dict[str, int]:
    """Return BLOCK_M, BLOCK_N, BLOCK_K, warps and stages of a row, and what else its kernel has."""
    found = {name: int(n) for name, n in re.findall(r"(BLOCK_[MNKOR]|KEEP|GROUP|SPAN|WIDTH)=(\d+)", row["config"])}
    warps, stages = re.search(r"w(\d+) s(\d+)$", row["config"]).groups()
    return found | {"warps": int(warps), "stages": int(stages)}


def copies(row: dict, threads_per_warp: int = 32) -> float:
    """Return the loads per thread and step: of 16 bytes, or of 4 where fp32 must be transposed on the way."""
    if kind(row) in ("tma", "persistent"):
        return 0
    s = shape(row)
    if kind(row) == spread.KIND:
        return spread.copies(s, BYTES[dtype(row)], threads_per_warp)
    rows = s["BLOCK_M"] + s["BLOCK_N"]
    depth = s["BLOCK_K"]
    if kind(row) == "grad":
        rows = s["BLOCK_N"] + columns(s)
        depth = s["BLOCK_M"]
    return rows * depth * BYTES[dtype(row)] / ((4 if narrow(row) else 16) * threads_per_warp * s["warps"])


def columns(tile: dict[str, int]) -> int:
    """Return the columns of x that a program of a gradient takes: of one block, or of several side by side."""
    return max(tile["BLOCK_K"], tile.get("WIDTH", 0))


def convolution(row: dict) -> float:
    """Return the instructions per step that a convolution has more than a matrix product."""
    if "conv" not in row["kernel"]:
        return 0
    s = shape(row)
    loads = s["BLOCK_M"] * s["BLOCK_K"] * BYTES[dtype(row)] / (16 * 32 * s["warps"])
    if kind(row) == "grad":
        return TAP + loads * CARRY
    return TAP + loads * HALO * ("HALO=True" in row["config"]) + PER_INDEX * (row["narrow_loads"] > 1)


def dtype(row: dict) -> str:
    """Return the dtype that the case names; bf16 where it names none."""
    return next((name for name in BYTES if name in row["case"]), "bf16")


def narrow(row: dict) -> bool:
    """Whether copies have 4 bytes: wgmma reads tf32 along the product only, so a gradient transposes its operands."""
    return kind(row) == "grad" and dtype(row) == "fp32" and row.get("instruction", "").startswith("HGMMA")


def exact(row: dict) -> bool:
    """Whether fp32 is not rounded to tf32: no tensor core multiplies it."""
    return dtype(row) == "fp32" and "PRECISION=ieee" in row["config"]


def fence(row: dict) -> int:
    """Return what newer compilers add to a step of wgmma.

    Six instructions that fence the copies, and two more per product of a chain for its descriptors, of which the first
    compilers spend five before the second product. The differences measured for chains of 1, 2, 4 and 8 are 6, 4,
    7 to 10 and 16 to 18.
    """
    if not FENCED or not row["instruction"].startswith(("HGMMA", "QGMMA")):
        return 0
    depth = shape(row)["BLOCK_M" if kind(row) == "grad" else "BLOCK_K"]
    return max(6, 1 + 2 * (depth * BYTES[dtype(row)] // 32))


def budget(row: dict) -> int | None:
    """Return the limit for one row of the census; None where there is none."""
    if row.get("loop") is None or kind(row) is None or exact(row):
        return None
    tile = shape(row)
    synchronous = not row["instruction"].startswith(("HGMMA", "QGMMA"))
    if kind(row) == "persistent":
        return persistent(row)
    if kind(row) == spread.KIND:
        count = spread.instructions(tile, copies(row), row["tensor_core"], synchronous)
        return math.floor(MARGIN * (count + convolution(row)))
    edge = EDGE if "EVEN_K=False" in row["config"] and kind(row) == "matmul" else 0
    label = f"{LABEL[dtype(row)]}{'left ' if 'W_LEFT=True' in row['config'] else ''}{kind(row)}"
    width = columns(tile) if kind(row) == "grad" else tile["BLOCK_K"]
    measured = MEASURED.get((label, tile["BLOCK_M"], tile["BLOCK_N"], width, tile["warps"]))
    if measured and row["target"] == "sm_90":
        *counts, stages = measured
        wraps = ROTATION if tile["stages"] & (tile["stages"] - 1) and not stages & (stages - 1) else 0
        return math.floor(MARGIN * (counts[FENCED] + wraps + edge + second_index(row) + convolution(row)))
    fetch = TRANSPOSED if kind(row) == "grad" and dtype(row) == "fp32" else PER_MMA
    matrix = row["tensor_core"] * (1 + fetch * synchronous)
    extra = fence(row) + edge + second_index(row) + gathering(row) + convolution(row) + scaling(row)
    return math.floor(MARGIN * (FIXED[kind(row)] + PER_COPY * copies(row) + matrix + extra))


def persistent(row: dict) -> int:
    """Return the limit for the loop of the persistent form, which does several steps where it is unrolled."""
    products = 4 * min(2, max(1, shape(row)["BLOCK_N"] // 64)) if "PING_PONG=True" in row["config"] else 4
    step = PERSISTENT + PER_PRODUCT * products
    return math.floor(MARGIN * step * max(1, row["tensor_core"] // products))


def second_index(row: dict) -> float:
    """Return what the place of a block that is not stored in order costs beside descriptors.

    The next index, as elsewhere, and its product with BLOCK_N, which is the row that the descriptor wants.
    """
    return (PER_INDEX + 1) * (kind(row) == "tma" and "conv" not in row["kernel"] and row["narrow_loads"] > 1)


def scaling(row: dict) -> float:
    """Return how many instructions scaling the sums of a step costs."""
    tile = shape(row)
    return SCALED + tile["BLOCK_M"] * tile["BLOCK_N"] / (32 * tile["warps"]) if dtype(row) == "fp8" else 0


def gathering(row: dict) -> float:
    """Return how many instructions finding the gathered blocks may cost."""
    if kind(row) not in ("gather", "decode"):
        return 0
    tile = shape(row)
    of_w = copies(row) * tile["BLOCK_N"] / (tile["BLOCK_M"] + tile["BLOCK_N"])
    return PER_INDEX * math.ceil(of_w) * (kind(row) == "gather") + PIECES * ("EVEN_K=False" in row["config"])
