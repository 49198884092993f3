"""The saved n:m form: what it holds, how it trains and travels, and that CUTLASS and torch read the same."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from smart_kernels.formats import Conv, CuSparseLt, SemiStructured, from_cutlass, from_torch, to_cutlass
from tests.util import assert_close

PATTERNS = [(2, 4), (1, 4), (2, 8), (4, 8), (1, 2)]
LAYOUTS = [pytest.param({}, id="rows"), pytest.param({"layout": "decode"}, id="of-0.1.0")]


def pruned(N, K, n=2, m=4, taps=1, dtype=torch.float32):
    """(N, taps * K), n of every m kept."""
    groups = torch.rand(N, taps, -(-K // m), m).argsort(-1) < n
    return (torch.randn(N, taps, K) * groups.flatten(2)[..., :K]).flatten(1).to(dtype)


def bits(t):
    return t.view(torch.int16 if t.element_size() == 2 else torch.int32)


@pytest.mark.parametrize("n, m", PATTERNS)
@pytest.mark.parametrize("N, K", [(32, 64), (33, 50), (1, 3)])
def test_stores_and_multiplies_like_dense(N, K, n, m):
    weight, x, bias = pruned(N, K, n, m), torch.randn(2, 5, K), torch.randn(N)
    stored = SemiStructured.from_dense(weight, (1, 1), n=n, m=m)
    assert torch.equal(stored.to_dense(), weight)
    assert_close("y", stored.linear(x, bias), F.linear(x.double(), weight.double(), bias.double()), x.dtype)


def test_takes_an_eighth_more_than_its_values():
    stored = SemiStructured.from_dense(pruned(64, 256, dtype=torch.bfloat16), (1, 1))
    assert stored.nbytes - stored.kept.nbytes == 64 * 256 * 2 * 9 // 16
    assert SemiStructured.from_dense(pruned(8, 64, 2, 8), (1, 1), n=2, m=8).indices.shape == (8, 6)  # 16 of 3 bits


def test_short_rows_and_negative_zeros_are_kept():
    weight = torch.zeros(6, 8)
    weight[0, 3], weight[1, 0], weight[2, 6] = 5, 6, 7
    weight[3, 2] = weight[4, 7] = -0.0
    weight[5, [1, 2]] = torch.tensor([float("nan"), -0.0])
    stored = SemiStructured.from_dense(weight, (1, 1))
    assert torch.equal(bits(stored.to_dense().detach()), bits(weight))


@pytest.mark.parametrize("keep", [None, torch.ones(4, 8, dtype=torch.bool)])
def test_refuses_what_is_not_sparse_enough(keep):
    with pytest.raises(ValueError, match=r"every 4 weights must have at most 2 to keep for 2:4, got [34]"):
        SemiStructured.from_dense(torch.ones(4, 8) if keep is None else torch.zeros(4, 8), (1, 1), keep=keep)


@pytest.mark.parametrize("n, m", [(2, 3), (4, 4), (0, 4), (2, 16)])
def test_refuses_other_groups(n, m):
    with pytest.raises(ValueError, match="n:m must keep"):
        SemiStructured.from_dense(torch.zeros(4, 48), (1, 1), n=n, m=m)


@pytest.mark.parametrize("n, m", [(2, 4), (2, 8)])
@pytest.mark.parametrize(
    "conv", [Conv((1, 1)), Conv((1, 1), (2, 2)), Conv((3, 3), (1, 1), (1, 1))], ids=["1x1", "stride", "3x3"]
)
def test_convolves_like_dense(conv, n, m):
    taps = conv.kernel[0] * conv.kernel[1]
    weight, x, bias = pruned(16, 10, n, m, taps), torch.randn(2, 10, 9, 7), torch.randn(16)
    stored = SemiStructured.from_dense(weight, (1, 1), taps=taps, n=n, m=m)
    matrix = weight.double().unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)
    expected = F.conv2d(x.double(), matrix, bias.double(), *conv[1:])
    assert torch.equal(stored.to_dense(), weight)
    assert_close("y", stored.conv2d(x, bias, conv), expected, x.dtype)


@pytest.mark.parametrize("options", LAYOUTS)
def test_survives_state_dict_deepcopy_and_pickle(options):
    weight, x = pruned(64, 300, dtype=torch.bfloat16), torch.randn(4, 300).bfloat16()
    stored = SemiStructured.from_dense(weight, (1, 1), **options)
    state = stored.state_dict()
    assert state["indices"].dtype == torch.uint8
    expected = stored.linear(x)
    for twin in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored))):
        assert torch.equal(twin.linear(x), expected)
    other = SemiStructured.from_dense(pruned(64, 300, dtype=torch.bfloat16), (1, 1), **options)
    other.load_state_dict(state)
    assert torch.equal(other.linear(x), expected) and other.indices.dtype == stored.indices.dtype
    assert torch.equal(SemiStructured(*state.values(), stored.shape).to_dense(), weight)


def test_damaged_indices_are_refused():
    stored = SemiStructured.from_dense(pruned(8, 16), (1, 1))
    damaged = stored.state_dict() | {"indices": torch.zeros(8, 2, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="indices must rise"):
        stored.load_state_dict(damaged)
    with pytest.raises(ValueError, match="needs values"):
        stored.load_state_dict(stored.state_dict() | {"indices": torch.zeros(8, 3, dtype=torch.uint8)})


@pytest.mark.parametrize("options", LAYOUTS)
def test_only_one_form_stays_resident(options):
    stored = SemiStructured.from_dense(pruned(16, 64, dtype=torch.bfloat16), (1, 1), **options)
    stored.linear(torch.randn(4, 64).bfloat16())
    assert [name for name, _ in stored.named_buffers()] == ["indices", "kept"] and stored._cache is None
    values, indices = stored.saved()
    assert values is stored.values and indices.shape == (16, 8)


def test_a_layout_without_a_kernel_is_what_was_saved():
    """Files of version 0.1.0 may name it."""
    weight = pruned(16, 64, dtype=torch.bfloat16)
    stored = SemiStructured.from_dense(weight, (1, 1), layout="decode")
    assert stored.layout == stored.options()["layout"] == "rows" and torch.equal(stored.to_dense(), weight)


@pytest.mark.parametrize("options", LAYOUTS)
def test_trains(options):
    weight, x = pruned(16, 64), torch.randn(4, 64)
    stored = SemiStructured.from_dense(weight, (1, 1), **options)
    stored.linear(x).square().sum().backward()
    with torch.no_grad():
        stored.values -= 0.1 * stored.values.grad
    dense = weight.clone().requires_grad_()
    F.linear(x, dense).square().sum().backward()
    expected = torch.where(weight != 0, weight - 0.1 * dense.grad, 0)
    assert_close("weight", stored.to_dense(), expected, torch.float32)


def integers(N, K, dtype):
    """2:4 with groups of 0, 1 and 2 non-zeros."""
    weight = pruned(N, K) * (torch.rand(N, K) < 0.7)
    return (weight * 4).round().to(dtype)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_torch_reads_our_cutlass_layout(half):
    weight = integers(64, 128, half)
    values, metadata = to_cutlass(SemiStructured.from_dense(weight, (1, 1)))
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, metadata), weight)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_we_read_torchs_cutlass_layout(half):
    weight = integers(64, 128, half)
    stored = from_cutlass(*sparse_semi_structured_from_dense_cutlass(weight), weight.shape)
    assert torch.equal(stored.to_dense(), weight)


def test_full_groups_have_one_layout():
    weight = pruned(64, 128, dtype=torch.float16)
    weight = torch.where(weight.unflatten(1, (-1, 4)).ne(0).sum(-1, keepdim=True) == 2, weight.unflatten(1, (-1, 4)), 0)
    weight = weight.flatten(1)
    ours = to_cutlass(SemiStructured.from_dense(weight, (1, 1)))
    kept = weight.unflatten(1, (-1, 4)).ne(0).sum(-1) == 2
    theirs = sparse_semi_structured_from_dense_cutlass(weight)
    if kept.all():
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("N, K", [(5, 9), (33, 100), (32, 68)])
def test_other_sizes_are_filled_up(N, K):
    weight = integers(N, K, torch.float16)
    values, metadata = to_cutlass(SemiStructured.from_dense(weight, (1, 1)))
    dense = sparse_semi_structured_to_dense_cutlass(values, metadata)
    assert dense.shape[0] % 32 == 0 and dense.shape[1] % 64 == 0
    assert torch.equal(dense[:N, :K], weight) and not dense[N:].any() and not dense[:, K:].any()
    assert torch.equal(from_cutlass(values, metadata, (N, K)).to_dense(), weight)


def test_from_torchs_tensor():
    class Packed:  # what torch's CUTLASS tensor is made of; the tensor itself needs a GPU
        packed, meta = sparse_semi_structured_from_dense_cutlass(integers(32, 64, torch.float16))
        shape = (32, 64)

    expected = sparse_semi_structured_to_dense_cutlass(Packed.packed, Packed.meta)
    assert torch.equal(from_torch(Packed).to_dense(), expected)


def test_layouts_refuse_other_forms():
    with pytest.raises(ValueError, match="metadata is of 2:4 in 16 bits"):
        to_cutlass(SemiStructured.from_dense(pruned(32, 64), (1, 1)))
    with pytest.raises(ValueError, match="metadata must be"):
        from_cutlass(torch.zeros(32, 32).half(), torch.zeros(32, 4), (32, 64))


def test_cusparselt_needs_a_gpu():
    with pytest.raises(ValueError, match="on a GPU"):
        CuSparseLt.from_dense(pruned(32, 64, dtype=torch.float16), (1, 1))
