"""Other people's sparse linear layers, where they import and run: what ours is held against besides dense."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import Provider


def peers(weight: Tensor, block: tuple[int, int], x: Tensor) -> list[Provider]:
    """Return those that accept this weight (N, K) with zeros, this block and this input."""
    found = []
    for name, make in MAKERS.items():
        try:
            function = make(weight, block)
            with torch.no_grad():
                function(x)
        except Exception:  # peers refuse shapes, blocks, dtypes and devices each in its way, compiler errors among them
            continue
        density = (weight != 0).double().mean().item()
        found.append(Provider(name, function, (x,), lambda x: F.linear(x, weight.double()), density))
    return found


def torch_bsr(weight: Tensor, block: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return torch's product with a BSR tensor."""
    sparse = weight.to_sparse_bsr(block)
    return lambda x: F.linear(x, sparse)


def torch_bsr_triton(weight: Tensor, block: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return torch's own Triton kernel for BSR, which only GPUs have."""
    if weight.device.type != "cuda":
        raise NotImplementedError("Triton runs on GPUs")
    from torch.sparse._triton_ops import bsr_dense_addmm

    sparse = weight.to_sparse_bsr(block)
    zero = weight.new_zeros(())
    return lambda x: bsr_dense_addmm(zero.expand(weight.shape[0], x.shape[0]), sparse, x.T, beta=0).T


def torch_csr(weight: Tensor, block: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return torch's product with single weights in CSR."""
    sparse = weight.to_sparse_csr()
    return lambda x: torch.sparse.mm(sparse, x.T).T


def torchao(weight: Tensor, block: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return torchao's block-sparse product."""
    if weight.device.type != "cuda" or block[0] != block[1] or find_spec("torchao") is None:
        raise NotImplementedError("torchao <= 0.18 on a GPU, square blocks")
    from torchao.sparsity.blocksparse import BlockSparseTensor

    return partial(_linear, weight=BlockSparseTensor.from_dense(weight, block[0]))


def stk(weight: Tensor, block: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return the product of stanford-stk, which has blocks of 128x128."""
    if weight.device.type != "cuda" or block != (128, 128) or find_spec("stk") is None:
        raise NotImplementedError("stanford-stk on a GPU, 128x128 blocks")
    import stk

    sparse = stk.ops.to_sparse(weight, 128)
    return lambda x: stk.ops.dds(x, sparse.t())


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


MAKERS = {
    "torch-bsr": torch_bsr,
    "torch-bsr-triton": torch_bsr_triton,
    "torch-csr": torch_csr,
    "torchao": torchao,
    "stk": stk,
}
