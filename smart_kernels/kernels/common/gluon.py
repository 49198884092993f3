"""Gluon under the names of triton 3.6, wherever the installed triton has moved them."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma_wait as wgmma_wait

from . import epilogue


def first(module, *names):
    """Return the first of the names that the module has."""
    return next(getattr(module, name) for name in names if hasattr(module, name))


copy_to_shared = first(async_copy, "async_load", "async_copy_global_to_shared")
tma_load = first(tma, "async_load", "async_copy_global_to_shared")
tma_store = first(tma, "async_store", "async_copy_shared_to_global")
barrier = first(gl, "barrier", "thread_barrier")
reinterpret = first(gl.shared_memory_descriptor, "reinterpret", "_reinterpret")
activate = gluon.jit(epilogue.activate.fn)


@gluon.jit
def finish(y, bias_ptr, residual_ptr, rows, cols, M, N, stride_rm, stride_rn, ACTIVATION: gl.constexpr):
    """Return activation(y + bias + residual) for fp32 sums of these rows and columns; either pointer may be None."""
    if bias_ptr is not None:
        y += gl.load(bias_ptr + cols, mask=cols < N, other=0.0).to(gl.float32)[None, :]
    if residual_ptr is not None:
        residual_p = residual_ptr + rows.to(gl.int64)[:, None] * stride_rm + (cols * stride_rn)[None, :]
        y += gl.load(residual_p, mask=(rows < M)[:, None] & (cols < N)[None, :], other=0.0).to(gl.float32)
    return activate(y, ACTIVATION)


__all__ = [
    "async_copy", "barrier", "copy_to_shared", "fence_async_shared", "finish", "gl", "gluon", "mbarrier", "reinterpret",
    "tma", "tma_load", "tma_store", "warpgroup_mma", "wgmma_wait",
]
