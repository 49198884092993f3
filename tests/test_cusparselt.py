"""2:4 on torch's sparse product: nothing is kept twice but the places, and the saved form comes back bit for bit.

The operators of cuSPARSELt are replaced on the CPU by ones that read and write what torch says their tensor is: values,
then metadata, here those of CUTLASS, made by torch's own conversions.
"""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from smart_kernels import SparseLinear, compress_, load, save
from smart_kernels.convert.measure import timing
from smart_kernels.formats import CuSparseLt, SemiStructured, cusparselt
from tests.test_semi_structured_format import bits, pruned
from tests.util import assert_close

N, K = 32, 128
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


class Library:
    """Stand for cuSPARSELt, and count how often it has packed and multiplied."""

    def __init__(self):
        self.packed = self.multiplied = 0

    def compress(self, dense):
        self.packed += 1
        values, metadata = sparse_semi_structured_from_dense_cutlass(dense)
        return torch.cat([values.flatten(), metadata.flatten().view(dense.dtype)]).view(len(dense), -1)

    def multiply(self, packed, dense, bias=None, alpha=None, out_dtype=None, transpose_result=False, *_, **__):
        self.multiplied += 1
        rows, values = len(packed), packed.numel() * 8 // 9
        metadata = packed.flatten()[values:].view(torch.int16).view(rows, -1)
        weight = sparse_semi_structured_to_dense_cutlass(packed.flatten()[:values].view(rows, -1), metadata)
        y = weight.double() @ dense.double()
        y = (y if bias is None else y + bias.double()[:, None]).to(dense.dtype)
        return y.T.contiguous() if transpose_result else y


@pytest.fixture
def library(monkeypatch):
    found = Library()

    def check(weight):
        if weight.shape[0] % 32 or weight.shape[1] % 64:
            raise RuntimeError(f"Error original_tensor.shape {weight.shape} is not supported!")

    monkeypatch.setattr(cusparselt, "torch_packs", lambda weight: weight.element_size() == 2)
    monkeypatch.setattr(SparseSemiStructuredTensorCUSPARSELT, "_validate_device_dim_dtype_shape", check)
    with torch.library._scoped_library("aten", "IMPL") as aten:
        aten.impl("_cslt_compress", lambda dense: found.compress(dense), "CPU")
        aten.impl("_cslt_sparse_mm", lambda *args, **kwargs: found.multiply(*args, **kwargs), "CPU")
        yield found


def weight_with_everything(dtype):
    """Groups of 0, 1 and 2 weights, infinities, NaN, the smallest number; zeros of both signs, some of them kept."""
    weight = pruned(N, K, dtype=dtype) * (torch.rand(N, K) < 0.7) + 0  # the zeros made so are positive
    keep = weight != 0
    weight[0, :8] = torch.tensor([torch.inf, 0, -torch.inf, 0, torch.nan, -0.0, 0, 0])
    weight[1, :8] = torch.tensor([-0.0, -0.0, 0, 0, 0, 0, torch.finfo(dtype).smallest_normal / 4, -0.0])
    keep[:2, :8] = weight[:2, :8] != 0
    weight[2], keep[2] = 0, torch.tensor([0, 1, 0, 1]).bool().repeat(K // 4)
    return weight, keep


def built(dtype=torch.float16):
    weight = pruned(N, K, dtype=dtype)
    return weight, CuSparseLt.from_dense(weight, (1, 1))


def multiplies(stored, weight, library):
    """The weight that torch's product multiplies is this one; how often it was packed for that."""
    before, x = library.packed, torch.eye(weight.shape[1], dtype=weight.dtype)
    with torch.no_grad():
        assert torch.equal(stored.linear(x), weight.T)
    return library.packed - before


def storage(tensor):
    return tensor.untyped_storage()


# ---- what is resident


@HALVES
def test_the_saved_form_comes_back_bit_for_bit(dtype, library):
    weight, keep = weight_with_everything(dtype)
    stored = CuSparseLt.from_dense(weight, (1, 1), keep=keep)
    expected = SemiStructured.from_dense(weight, (1, 1), keep=keep).state_dict()
    state = stored.state_dict()
    assert state.keys() == expected.keys() and torch.equal(bits(state["values"]), bits(expected["values"]))
    assert torch.equal(state["indices"], expected["indices"]) and torch.equal(state["kept"], expected["kept"])
    assert torch.equal(bits(stored.to_dense().detach()), bits(weight))


def test_the_values_are_the_beginning_of_the_packed_tensor(library):
    weight, stored = built()
    packed = stored._packed()
    assert storage(stored.values).data_ptr() == storage(packed.packed).data_ptr() and library.packed == 1
    assert storage(packed.packed).nbytes() == N * K + N * K // 8, "values and metadata"
    assert [name for name, _ in stored.named_parameters()] == ["values"] and stored.values.is_leaf
    assert [name for name, _ in stored.named_buffers()] == ["indices", "kept"] and stored.indices.nbytes == N * K // 8
    assert stored.nbytes == SemiStructured.from_dense(weight, (1, 1)).nbytes and stored.options() == {}
    assert multiplies(stored, weight, library) == 0


@HALVES
def test_multiplies_like_dense(dtype, library):
    weight, stored = built(dtype)
    x, bias = torch.randn(2, 3, K).to(dtype), torch.randn(N).to(dtype)
    library.multiplied = 0
    with torch.inference_mode():
        for part in (x, x[0, 0], x[:, :0]):
            expected = F.linear(part.double(), weight.double(), bias.double())
            assert_close("y", stored.linear(part, bias), expected, dtype)
    assert library.multiplied == 2, "nothing multiplies no rows"


def test_kept_zeros_and_short_groups_are_places(library):
    """The packed places are those that are stored, whatever the values: they train."""
    weight = torch.zeros(N, K).half()
    weight[3, 5] = 1
    stored = CuSparseLt.from_dense(weight, (1, 1))
    with torch.no_grad():
        stored.values.copy_(torch.arange(stored.values.numel()).view_as(stored.values) % 1000 + 1)
    assert multiplies(stored, stored.to_dense(), library) == 0


# ---- what changes


def test_an_optimizer_step_needs_no_packing(library):
    weight, stored = built(torch.bfloat16)
    plain = SemiStructured.from_dense(weight, (1, 1))
    x = torch.randn(5, K).bfloat16()
    for form in (stored, plain):
        optimizer = torch.optim.AdamW(form.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            form.linear(x).square().sum().backward()
            optimizer.step()
            assert form is plain or multiplies(stored, stored.to_dense(), library) == 0
    assert torch.equal(stored.values, plain.values) and not torch.equal(stored.to_dense(), weight)


def test_gradients_are_those_of_the_saved_form(library):
    weight, stored = built()
    x = torch.randn(5, K).half().requires_grad_()
    y = stored.linear(x)
    with torch.no_grad():
        stored.linear(x)
    y.sum().backward()
    assert library.multiplied == 2, "one when it was packed, one without gradients"
    assert_close("dx", x.grad, torch.ones(5, N) @ weight.float(), torch.float16)
    assert_close("dw", stored.values.grad[0, 0], x[:, stored.to_dense()[0].nonzero()[0]].sum(), torch.float16)


def test_what_was_copied_or_loaded_is_packed_again(library):
    weight, stored = built()
    _, another = built()
    for twin in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored)), copy.deepcopy(stored).float().half()):
        assert multiplies(twin, weight, library) == 1 and multiplies(twin, weight, library) == 0
        assert twin.values.data_ptr() != stored.values.data_ptr()
    another.load_state_dict(stored.state_dict())
    assert multiplies(another, weight, library) == 1 and multiplies(another, weight, library) == 0
    another.load_state_dict({key: t.clone() for key, t in built()[1].state_dict().items()}, assign=True)
    assert multiplies(another, another.to_dense(), library) == 1
    assert multiplies(stored, weight, library) == 0, "the first is as it was"
    file = io.BytesIO()
    torch.save(stored.state_dict(), file)
    file.seek(0)
    another.load_state_dict(torch.load(file))
    assert multiplies(another, weight, library) == 1


def test_what_was_moved_lets_go_of_the_packed_tensor(library):
    weight, stored = built()
    stored.float()
    assert stored._cache is None and storage(stored.values).nbytes() == stored.values.nbytes
    assert_close("y", stored.linear(torch.eye(K)), weight.T.double(), torch.float32)
    assert library.multiplied == 1, "only when it was packed"


def test_places_that_were_changed_in_place_are_packed_again(library):
    weight, stored = built()
    with torch.no_grad():
        stored.indices.copy_(built()[1].indices)
    assert multiplies(stored, stored.to_dense(), library) == 1 and not torch.equal(stored.to_dense(), weight)


@pytest.mark.parametrize("replace", ["data", "parameter"])
def test_values_that_are_elsewhere_are_packed_again(replace, library):
    weight, stored = built()
    values = 2 * stored.values.detach()
    if replace == "data":
        stored.values.data = values
    else:
        stored.values = nn.Parameter(values)
    assert multiplies(stored, 2 * weight, library) == 1 and multiplies(stored, 2 * weight, library) == 0


def test_inference_mode(library):
    with torch.inference_mode():
        weight, stored = built()
        assert multiplies(stored, weight, library) == 0
    assert multiplies(stored, weight, library) == 0
    twin = copy.deepcopy(built()[1])
    with torch.inference_mode():
        twin.linear(torch.eye(K).half())
    twin.linear(torch.eye(K).half()).sum().backward()
    with torch.no_grad():
        twin.values -= twin.values.grad
    assert multiplies(twin, twin.to_dense(), library) == 0, "packed in inference mode, it trains"


# ---- where there is none


def test_what_torch_does_not_take_is_refused_with_its_reason(library, monkeypatch):
    with pytest.raises(ValueError, match=r"cusparselt does not take \(8, 64\) here: Error original_tensor.shape"):
        CuSparseLt.from_dense(pruned(8, 64, dtype=torch.float16), (1, 1))
    monkeypatch.setattr(library, "compress", lambda dense: Library().compress(dense).roll(1, 0))
    with pytest.raises(ValueError, match="here: the packed tensor does not begin with the values"):
        built()


def test_where_there_is_none_the_saved_form_is_multiplied(library, monkeypatch):
    weight, stored = built()
    twin, tried = copy.deepcopy(stored), []
    monkeypatch.setattr(library, "compress", lambda dense: tried.append(1) or Library().compress(dense).roll(1, 0))
    for _ in range(2):
        with torch.no_grad():
            assert_close("y", twin.linear(torch.eye(K).half()), weight.T.double(), torch.float16)
    assert len(tried) == 1, "it is tried once"


def test_compiled_code_multiplies_the_saved_form(library):
    weight, stored = built()
    with torch.no_grad():
        y = torch.compile(lambda x: stored.linear(x), backend="aot_eager", fullgraph=True)(torch.eye(K).half())
    assert_close("y", y, weight.T.double(), torch.float16)
    assert library.multiplied == 1, "only when it was packed"


# ---- the choice


def test_compress_chooses_it_and_the_choice_travels(library, monkeypatch, tmp_path):
    def fake(candidates, *_):
        return {name: [0.1 if name == "cusparselt" else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    net, x = nn.Sequential(nn.Linear(K, N)).half(), torch.randn(4, K).half()
    net[0].weight.data = pruned(N, K, dtype=torch.float16)
    weight, expected = net[0].weight.detach().clone(), net(x)
    report = compress_(net, x)
    assert isinstance(net[0], SparseLinear) and isinstance(net[0].format, CuSparseLt)
    assert [row.choice for row in report.rows] == ["cusparselt"]
    with torch.no_grad():
        assert_close("y", net(x), expected.double(), torch.float16)
    save(net, tmp_path, report)
    assert (tmp_path / "model.safetensors").stat().st_size < 1.2 * net[0].format.nbytes + 1000
    fresh = nn.Sequential(nn.Linear(K, N)).half()
    assert load(fresh, tmp_path) == report and isinstance(fresh[0].format, CuSparseLt)
    assert torch.equal(fresh[0].weight, weight)
    assert multiplies(fresh[0].format, weight, library) == 0
