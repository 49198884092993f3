"""Every operator that the package registers keeps torch.library's rules; one without a case here fails."""

import pytest
import torch
import triton

from smart_kernels.formats import BSR, Conv
from smart_kernels.ops.block_sparse import block_sparse_conv2d, block_sparse_linear  # noqa: F401
from smart_kernels.ops.tensor_core import arrange, arrange_indices, quantized_semi_structured_pack
from smart_kernels.reference.common.nm import compress

# "test_aot_dispatch_dynamic" compiles, and is left to the tests of each operator
TESTS = ("test_schema", "test_autograd_registration", "test_faketensor")
N, K, ROWS = 16, 24, 5
CONV = Conv((3, 3), (1, 1), (1, 1), (1, 1))


def learns(*tensors):
    return tuple(t.requires_grad_() for t in tensors)


def blocks(taps=1):
    weight = torch.randn(N, taps * 16)
    weight[:8, :8] = 0
    stored = BSR.from_dense(weight, (8, 8), taps=taps)
    return stored.values.detach(), stored.crow_indices, stored.col_indices


def two_of_four(taps=1, both_ways=False):
    channels = torch.arange(16 * taps)
    keep = ((channels[None] + (torch.arange(N)[:, None] if both_ways else 0)) % 4 < 2).expand(N, -1)
    return compress(torch.randn(N, 16 * taps), keep, 2, 4)


def rows():
    return torch.randn(ROWS, 16)


def images(channels=16):
    return torch.randn(2, 5, 5, channels)


def on_tensor_cores():
    values, indices = two_of_four(both_ways=True)
    return arrange(values, "mma"), arrange_indices(indices, 4)


def target():
    return torch.tensor([2.0]).double(), torch.tensor(0.3).double()


def nothing_prepared():
    return torch.empty(0), torch.empty(0, dtype=torch.int32)  # a CPU does without


def masked():
    return torch.randn(N, K), torch.rand(2, 3)


def smart(shape):
    return torch.randn(shape), torch.randn(2, 3), torch.zeros(1, 1), torch.tensor(0.5, dtype=torch.float64)


def eight_bits():
    values, indices = two_of_four()
    packed = quantized_semi_structured_pack((values * 10).to(torch.int8), indices)
    return packed.weight, packed.metadata


def grouped():
    return torch.randn(N, K), torch.randn(N, K), torch.tensor(0.5, dtype=torch.float64)


TILE = (8, 8, 0.0, False)
GROUPED = (2, 4, 0.0, False)
CASES = {
    "block_sparse_linear": lambda: (*learns(rows()), *blocks(), torch.randn(N), N),
    "block_sparse_linear_dx": lambda: (torch.randn(ROWS, N), *blocks(), 16),
    "block_sparse_linear_dvalues": lambda: (torch.randn(ROWS, N), rows(), *blocks()[1:], 8, 8),
    "block_sparse_conv2d": lambda: (*learns(images()), *blocks(9), None, None, CONV.numbers, N, None),
    "block_sparse_conv2d_dx": lambda: (images(N), *blocks(9), None, CONV.numbers, 5, 5, 16),
    "block_sparse_conv2d_dvalues": lambda: (images(N), images(), *blocks(9)[1:], CONV.numbers, 8, 8),
    "masked_linear": lambda: (*learns(torch.randn(ROWS, K), *masked()), None, *TILE),
    "masked_linear_backward": lambda: (
        *(torch.randn(ROWS, N), torch.randn(ROWS, K), *masked()),
        *(*TILE, True, True, torch.float32),
    ),
    "prepared_linear": lambda: (*learns(torch.randn(ROWS, K), *masked()), None, *nothing_prepared(), 8, 8, 0.0),
    "prepared_linear_dx": lambda: (torch.randn(ROWS, N), *masked(), *nothing_prepared(), 8, 8, 0.0),
    "masked_conv2d": lambda: (*learns(images(8), torch.randn(N, 72), torch.rand(2, 9)), None, CONV.numbers, *TILE),
    "masked_conv2d_backward": lambda: (
        *(images(N), images(8), torch.randn(N, 72), torch.rand(2, 9), CONV.numbers),
        *(*TILE, True, True),
    ),
    "masked_conv2d_dx": lambda: (
        *(images(N), torch.randn(N, 72), torch.rand(2, 9), CONV.numbers),
        *(5, 5, 8, 8, 8, 0.0),
    ),
    "smart_linear": lambda: (torch.randn(ROWS, K), *smart((N, K)), None, 8, 8, 2, 3, 0.0, False),
    "smart_linear_backward": lambda: (
        *(torch.randn(ROWS, N), torch.randn(ROWS, K), *smart((N, K))),
        *(8, 8, 2, 3, 0.0, False, True, True, torch.float32),
    ),
    "smart_weight": lambda: (*learns(*grouped()[:2]), grouped()[2], *GROUPED),
    "smart_weight_backward": lambda: (
        *(torch.randn(N, K), *grouped()[:2]),
        *(torch.ops.smart_kernels.smart_weight(*grouped(), *GROUPED)[1], grouped()[2], *GROUPED),
    ),
    "soft_topk": lambda: (*learns(torch.randn(3, 7)), *target(), None, None, []),
    "soft_topk_backward": lambda: (torch.randn(3, 7), torch.randn(3), torch.rand(3, 7), target()[1], None, []),
    "semi_structured_linear": lambda: (*learns(rows()), *two_of_four(), None, None, 2, 4, None, False),
    "semi_structured_linear_dx": lambda: (torch.randn(ROWS, N), *two_of_four(), 2, 4, 16, False),
    "semi_structured_conv2d": lambda: (*learns(images()), *two_of_four(9), None, None, CONV.numbers, 2, 4, None),
    "semi_structured_prune": lambda: (torch.randn(N, K), None),
    "semi_structured_prune_both_ways": lambda: (torch.randn(N, K), None),
    "semi_structured_transpose": lambda: (*two_of_four(both_ways=True), 16),
    "sparse_tensor_kept": lambda: (torch.randn(N, 16), on_tensor_cores()[1], "mma"),
    "sparse_tensor_turned": lambda: (*on_tensor_cores(), on_tensor_cores()[1], "mma", N, 16),
    "sparse_tensor_linear": lambda: (*learns(rows()), *on_tensor_cores(), None, None, "mma", N),
    "sparse_tensor_linear_dx": lambda: (torch.randn(ROWS, N), *on_tensor_cores(), None, "mma", 16),
    "quantized_semi_structured_linear": lambda: (
        *((rows() * 10).to(torch.int8), *eight_bits(), torch.tensor(0.1)),
        *(None, None, None, torch.float32, N),
    ),
}


def registered():
    """The names of all operators, without those that other tests register."""
    names = torch._C._dispatch_get_all_op_names()
    ours = {name.split("::")[1].split(".")[0] for name in names if name.startswith("smart_kernels::")}
    return sorted(name for name in ours if not name.startswith("prototype_"))


def test_every_operator_has_a_case():
    assert registered() == sorted(CASES)


@pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the rules do not depend on what runs")
@pytest.mark.parametrize("name", sorted(CASES))
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.smart_kernels, name), CASES[name](), test_utils=TESTS)
