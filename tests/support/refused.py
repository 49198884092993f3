"""What does not work, by row and column, with what it says then and what the page says."""

from typing import NamedTuple


class Refused(NamedTuple):
    """An error that is expected.

    Attributes:
        match: a regular expression that its text contains.
        why: what the page says.
    """

    match: str
    why: str


ONNX = Refused("masked_linear", "a mask in search has no ONNX form: `finalize()` first, then the layers are plain")
ONEDNN = Refused("needs float32 or bfloat16 on a CPU", "oneDNN takes float32 and bfloat16; `compress_` leaves it out")
VECTOR = Refused(
    "jit needs .* float32, on a CPU", "vector code is made for float32 on a CPU; `compress_` leaves it out"
)
PACKED = Refused(
    "chosen was dense", "packed weights are all weights, saved as dense and packed again where that is faster"
)
OWN = Refused("no kernel of ours", "PyTorch's own operators, no kernel of ours")
CPU = Refused("no kernel of ours", "for CPUs; on a GPU `compress_` leaves it out")

MASKED_LINEARS = ("MaskedLinear block:16x16", "MaskedLinear channel", "MaskedLinear nm:2:4")
KINDS = ("Linear", "Conv2d")
DENSE = ("MaskedConv1d block:16x16", "MaskedConv3d block:16x16", "MaskedConvTranspose2d block:16x16")
TORCHS = (*DENSE, "SparseLinear csr", *(f"Sparse{layer} {form}" for layer in KINDS for form in ("compact", "ell")))
CPUS = tuple(f"Sparse{layer} {form}" for layer in KINDS for form in ("jit", "packed"))


def _refused() -> dict[tuple[str, str], Refused]:
    found = {(row, "ONNX"): ONNX for row in MASKED_LINEARS}
    for layer in KINDS:
        for dtype in ("float16", "float64"):
            found |= {(f"Sparse{layer} {form}", dtype): ONEDNN for form in ("ell", "packed")}
        found[f"Sparse{layer} packed", "Hugging Face"] = PACKED
        found |= {(f"Sparse{layer} jit", dtype): VECTOR for dtype in ("bfloat16", "float16", "float64")}
    for vendor in ("NVIDIA", "AMD"):
        found |= {(row, f"{vendor} GPU"): OWN for row in TORCHS} | {(row, f"{vendor} GPU"): CPU for row in CPUS}
    return found


REFUSED = _refused()
