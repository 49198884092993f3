"""How close is close: one table for all tests."""

import torch

# relative error ||out - ref|| / ||ref|| against float64
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    out, ref = out.detach().double().cpu(), ref.detach().double().cpu()
    return ((out - ref).norm() / ref.norm().clamp_min(1e-12)).item()


def assert_close(name: str, out: torch.Tensor, ref: torch.Tensor, dtype: torch.dtype) -> None:
    assert out.shape == ref.shape, f"{name}: shape {tuple(out.shape)}, expected {tuple(ref.shape)}"
    error = relative_error(out, ref)
    assert error <= TOLERANCE[dtype], f"{name}: relative error {error:.1e} > {TOLERANCE[dtype]:.0e}"
