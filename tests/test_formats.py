"""Laws of the storage formats."""

import copy
import importlib.util
import pickle

import pytest
import torch
import torch.nn.functional as F

from smart_kernels.formats import (
    BSR,
    CSR,
    ELL,
    FORMATS,
    JIT,
    Compact,
    Conv,
    Dense,
    Groups,
    Packed,
    Zeros,
    ell,
    indexed,
    processor,
)
from smart_kernels.formats.buckets import even, split
from smart_kernels.formats.union import union_factor, unite, worth_uniting
from smart_kernels.formats.union_order import agreeing_rows
from tests.util import assert_close

LLVM = importlib.util.find_spec("llvmlite")
VARIANTS = [
    pytest.param(Dense, {}, id="dense"),
    pytest.param(Packed, {}, id="packed"),
    pytest.param(Compact, {}, id="compact"),
    pytest.param(CSR, {}, id="csr"),
    pytest.param(BSR, {}, id="bsr"),
    pytest.param(BSR, {"union": 2}, id="bsr-union-2"),
    pytest.param(ELL, {"engine": "onednn", "buckets": 1}, id="ell-onednn-1"),
    pytest.param(ELL, {"engine": "onednn", "buckets": 3}, id="ell-onednn-3"),
    pytest.param(ELL, {"engine": "bmm", "buckets": 2}, id="ell-bmm-2"),
    pytest.param(JIT, {}, id="jit", marks=pytest.mark.skipif(not LLVM, reason="needs llvmlite")),
]
SHAPES = [  # N, K, tile
    pytest.param(96, 64, (32, 32), id="even"),
    pytest.param(50, 35, (16, 16), id="ragged"),
    pytest.param(128, 40, (32, 8), id="narrow"),
    pytest.param(16, 16, (16, 16), id="one-tile"),
]
CONVS = [
    pytest.param(Conv((1, 1)), id="1x1"),
    pytest.param(Conv((1, 1), (2, 2)), id="1x1-stride"),
    pytest.param(Conv((1, 1), (1, 1), (1, 1)), id="1x1-padded"),
    pytest.param(Conv((3, 3), (1, 1), (1, 1)), id="3x3"),
    pytest.param(Conv((3, 2), (2, 1), (1, 0), (1, 2)), id="3x2-all"),
]


def pruned(N, K, tile, taps=1, density=0.4, dtype=torch.float32):
    """(N, taps * K) with uneven rows; the first block row is dead."""
    rows, cols = -(-N // tile[0]), -(-K // tile[1])
    live = torch.rand(rows, taps, cols) < density * torch.linspace(0.2, 1.8, rows)[:, None, None]
    live[0] = rows == 1
    mask = live.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 2)[:N, :, :K]
    return (torch.randn(N, taps, K) * mask).flatten(1).to(dtype)


def kernel(weight, conv):
    return weight.unflatten(1, (*conv.kernel, -1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("cls, options", VARIANTS)
@pytest.mark.parametrize("N, K, tile", SHAPES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_stores_and_multiplies_like_dense(cls, options, N, K, tile, bias):
    weight, x = pruned(N, K, tile), torch.randn(2, 5, K)
    bias = torch.randn(N) if bias else None
    stored = cls.from_dense(weight, tile, **options)
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert torch.equal(stored.to_dense(), weight)
    assert stored.options() == options
    with torch.no_grad():
        assert_close("fast path", stored.linear(x, bias), expected, x.dtype)
        assert_close("one row", stored.linear(x[0, 0], bias), expected[0, 0], x.dtype)
    assert_close("plain path", stored.linear(x, bias), expected, x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
@pytest.mark.parametrize("conv", CONVS)
def test_convolves_like_dense(cls, options, conv):
    taps = conv.kernel[0] * conv.kernel[1]
    weight, x, bias = pruned(48, 40, (16, 16), taps), torch.randn(2, 40, 9, 7), torch.randn(48)
    try:
        stored = cls.from_dense(weight, (16, 16), taps=taps, **options)
    except ValueError as error:
        assert "taps" in str(error)
        return
    expected = F.conv2d(x.double(), kernel(weight, conv).double(), bias.double(), *conv[1:])
    assert torch.equal(stored.to_dense(), weight)
    with torch.no_grad():
        assert_close("fast path", stored.conv2d(x, bias, conv), expected, x.dtype)
        assert_close("unbatched", stored.conv2d(x[0], bias, conv), expected[0], x.dtype)
    assert_close("plain path", stored.conv2d(x, bias, conv), expected, x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_all_dead_is_the_bias(cls, options):
    stored, bias = cls.from_dense(torch.zeros(32, 48), (16, 16), **options), torch.randn(32)
    with torch.no_grad():
        assert torch.equal(stored.linear(torch.randn(3, 48), bias), bias.expand(3, 32))
        assert torch.equal(stored.linear(torch.randn(3, 48)), torch.zeros(3, 32))
    image, conv = torch.randn(2, 12, 5, 5), Conv((2, 2))
    if options.get("engine") != "bmm":
        stored = cls.from_dense(torch.zeros(32, 48), (16, 4), taps=4, **options)
        with torch.no_grad():
            assert torch.equal(stored.conv2d(image, bias, conv), bias.view(-1, 1, 1).expand(2, 32, 4, 4))


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_survives_state_dict_deepcopy_and_pickle(cls, options):
    weight, x = pruned(64, 48, (16, 16)), torch.randn(4, 48)
    stored = cls.from_dense(weight, (16, 16), **options)
    with torch.no_grad():
        expected = stored.linear(x)
        for twin in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored))):
            assert torch.equal(twin.linear(x), expected)
        other = cls.from_dense(weight * 2, (16, 16), **options)
        other.linear(x)
        other.load_state_dict(stored.state_dict())
        assert torch.equal(other.linear(x), expected)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_follows_its_values(cls, options):
    """The packed copy is made again when the stored values change."""
    stored, x = cls.from_dense(pruned(64, 48, (16, 16)), (16, 16), **options), torch.randn(4, 48)
    with torch.no_grad():
        before = stored.linear(x)
        stored.values.mul_(2)
        assert_close("y", stored.linear(x), before * 2, x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_follows_its_dtype(cls, options, dtype):
    """A format built for float32 reads no other numbers; vector code would read beyond the end of bfloat16."""
    weight, x, bias = pruned(64, 48, (16, 16)), torch.randn(4, 48), torch.randn(64)
    stored = cls.from_dense(weight, (16, 16), **options)
    with torch.no_grad():
        stored.linear(x, bias)
        stored.to(dtype)
        y = stored.linear(x.to(dtype), bias.to(dtype))
        assert y.dtype == dtype
        assert_close("y", y, F.linear(x.to(dtype).double(), weight.to(dtype).double(), bias.to(dtype).double()), dtype)
        stored.to(torch.float32)
        assert_close("back", stored.linear(x, bias), F.linear(x, weight.to(dtype).float(), bias), x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_follows_its_device(cls, options):
    stored, x = cls.from_dense(pruned(64, 48, (16, 16)), (16, 16), **options), torch.randn(4, 48)
    with torch.no_grad():
        stored.linear(x)
        stored.to("meta")
        y = stored.linear(x.to("meta"))
    assert y.device.type == "meta" and y.shape == (4, 64)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_layers_of_other_geometry_may_share_it(cls, options):
    weight, x = pruned(48, 16, (16, 16), taps=9), torch.randn(2, 16, 9, 7)
    try:
        stored = cls.from_dense(weight, (16, 16), taps=9, **options)
    except ValueError as error:
        assert "taps" in str(error)
        return
    convs = [Conv((3, 3), padding=(d, d), dilation=(d, d), stride=(s, 1)) for d in (1, 2) for s in (1, 2)] * 2
    with torch.no_grad():
        for conv in convs:
            expected = F.conv2d(x, kernel(weight, conv), None, *conv[1:])
            assert_close(str(conv), stored.conv2d(x, None, conv), expected, x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_follows_tensors_that_are_replaced(cls, options):
    """Memory that is free again may be taken for the new values: the address alone does not say whose they are."""
    stored, x = cls.from_dense(pruned(64, 48, (16, 16)), (16, 16), **options), torch.randn(4, 48)
    with torch.no_grad():
        expected = stored.linear(x)
        for factor in (2.0, 3.0, 5.0, 7.0):
            values = stored.values.detach() * factor
            stored.values.data = stored.values.data[:0]  # frees them
            stored.values.data = values.clone()
            del values
            expected = expected * factor
            assert_close("y", stored.linear(x), expected, x.dtype)


def outcome(call):
    """Return what comes out: a tensor, or the kind of error."""
    try:
        return call()
    except (ValueError, RuntimeError, IndexError) as error:
        return type(error)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_what_does_not_fit_is_left_to_the_plain_formula(cls, options):
    """Another dtype of the bias, or other sizes: no fast path reads memory on trust."""
    stored, x, bias = cls.from_dense(pruned(64, 48, (16, 16)), (16, 16), **options), torch.randn(4, 48), torch.randn(64)
    odd = [(x, bias.double()), (x, bias[:63]), (x, torch.randn(128)), (x.double(), bias), (x.double(), bias.double())]
    odd += [(torch.randn(4, columns), bias) for columns in (32, 47, 49, 96)]
    with torch.no_grad():
        stored.linear(x, bias)
        for each in odd:
            assert not stored.fast(*each)
            got = outcome(lambda each=each: stored.linear(*each))
            with torch.enable_grad():
                plain = outcome(lambda each=each: stored.linear(each[0].requires_grad_(), each[1]))
            assert got is plain or torch.equal(got, plain)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_what_is_dead_altogether_may_be_added_to_in_place(cls, options):
    stored, bias = cls.from_dense(torch.zeros(32, 48), (16, 16), **options), torch.randn(32)
    for rows in (1, 3):
        with torch.no_grad():
            y = stored.linear(torch.randn(rows, 48), bias)
            y += 1
        assert torch.equal(y, (bias + 1).expand(rows, 32))


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_trains_through_the_plain_path(cls, options):
    weight, x, bias = pruned(64, 48, (16, 16)), torch.randn(4, 48, requires_grad=True), torch.randn(64)
    stored = cls.from_dense(weight, (16, 16), **options)
    dense = weight.clone().requires_grad_()
    got = torch.autograd.grad(stored.linear(x, bias).sin().sum(), (stored.values, x))
    expected = torch.autograd.grad(F.linear(x, dense, bias).sin().sum(), (dense, x))
    assert_close("dx", got[1], expected[1], x.dtype)
    stored.values.data.copy_(got[0])
    live = stored.to_dense() != 0
    assert_close("dvalues", stored.to_dense(), expected[0] * live, x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_bfloat16(cls, options):
    if cls is JIT:
        pytest.skip("float32 only")
    weight, x = pruned(64, 48, (16, 16), dtype=torch.bfloat16), torch.randn(4, 48, dtype=torch.bfloat16)
    if (cls is Packed or options.get("engine") == "onednn") and not processor.onednn_takes(weight):
        with pytest.raises(ValueError, match="oneDNN cannot pack bfloat16 on this processor"):
            cls.from_dense(weight, (16, 16), **options)
        return
    stored = cls.from_dense(weight, (16, 16), **options)
    with torch.no_grad():
        assert_close("y", stored.linear(x), F.linear(x.double(), weight.double()), x.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_autocast(cls, options):
    weight, x = pruned(64, 48, (16, 16)), torch.randn(4, 48)
    stored = cls.from_dense(weight, (16, 16), **options)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = stored.linear(x)
    assert y.dtype == torch.bfloat16
    assert_close("y", y, F.linear(x.double(), weight.double()), y.dtype)


@pytest.mark.parametrize("cls, options", VARIANTS)
def test_compiles(cls, options):
    stored, x = cls.from_dense(pruned(64, 48, (16, 16)), (16, 16), **options), torch.randn(4, 48)
    with torch.no_grad():
        expected = stored.linear(x)
        y = torch.compile(lambda x: stored.linear(x), backend="aot_eager", fullgraph=True)(x)
    assert_close("y", y, expected, x.dtype)


@pytest.mark.parametrize("options", [options.values[1] for options in VARIANTS if options.values[0] is ELL])
def test_ell_gathers_a_part_of_the_rows_at_a_time(options, monkeypatch):
    """Gathered whole, rows of x or images would outgrow the cache."""
    run, widths = ELL._run, []
    monkeypatch.setattr(ELL, "_run", lambda self, x, *rest: widths.append(x.shape[:2]) or run(self, x, *rest))
    monkeypatch.setattr(ell, "GATHERED", 32 * 32 * 4)
    weight, x, bias = pruned(40, 32, (16, 16)), torch.randn(1300, 32), torch.randn(40)
    stored = ELL.from_dense(weight, (16, 16), **options)
    with torch.no_grad():
        assert_close("y", stored.linear(x, bias), F.linear(x, weight, bias), x.dtype)
        assert set(widths) == {(1, 16), (1, 4)} and sum(rows for _, rows in widths) == 1300
        if options["engine"] == "onednn":
            conv, image = Conv((2, 2), stride=(2, 1)), torch.randn(5, 8, 7, 6)
            stored, kernels = ELL.from_dense(weight, (16, 8), taps=4, **options), kernel(weight, conv)
            assert_close("images", stored.conv2d(image, bias, conv), F.conv2d(image, kernels, bias, (2, 1)), x.dtype)
            assert widths[-5:] == [(1, 7)] * 5


def test_pieces_are_about_equal():
    assert [even(1300, 16, most) for most in (0, 16, 500, 640, 1300, 5000)] == [16, 16, 448, 448, 656, 1312]
    assert [even(5, 1, most) for most in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 3, 3, 5]
    for size in range(1, 70):
        for most in range(1, 80):
            step = even(size, 8, most)
            assert (step % 8 == 0 and step <= max(8, most)) or step >= size
            assert -(-size // step) <= -(-size // max(8, most // 8 * 8))


def test_ell_buckets_pad_least():
    assert split([3, 0, 1, 1, 8, 3], 8) == [(2, 1), (2, 3), (1, 8)]
    assert split([3, 0, 1, 1, 8, 3], 2) == [(4, 3), (1, 8)]
    assert split([3, 1, 8], 1) == [(3, 8)]
    assert split([0, 0], 3) == []


def test_compact_keeps_only_live_channels():
    weight = torch.zeros(8, 6)
    weight[2, 1] = weight[5, 4] = 1
    stored = Compact.from_dense(weight, (1, 6))
    assert stored.rows.tolist() == [2, 5] and stored.cols.tolist() == [1, 4]
    assert stored.values.shape == (2, 2)


def test_sparse_forms_are_smaller():
    weight = pruned(64, 64, (16, 16), density=0.2)
    assert BSR.from_dense(weight, (16, 16)).nbytes < 0.5 * Dense.from_dense(weight, (16, 16)).nbytes


def stored_rows(density, rows=16, cols=40, tile=(16, 16)):
    live = torch.rand(rows, cols) < density
    weight = torch.randn(rows, cols, *tile) * live[:, :, None, None]
    return BSR.from_dense(weight.transpose(1, 2).flatten(2).flatten(0, 1), tile)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("N, K, tile", SHAPES)
def test_united_rows_are_the_same_weight(count, N, K, tile):
    bsr = BSR.from_dense(pruned(N, K, tile), tile)
    tensors = bsr.values.detach(), bsr.crow_indices, bsr.col_indices
    values, crow, col = unite(*tensors, count)
    tall = BSR(values, crow, col, bsr.shape)
    assert tall.tile == (count * tile[0], tile[1])
    assert torch.equal(tall.to_dense(), bsr.to_dense())
    assert union_factor(*tensors[1:], count) * len(tensors[0]) == pytest.approx(len(values) * count)
    assert len(values) <= len(tensors[0])


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("count", [4, 8])
def test_union_factor_of_random_masks(density, count):
    bsr = stored_rows(density, rows=64, cols=200)
    expected = (1 - (1 - density) ** count) / density
    assert union_factor(bsr.crow_indices, bsr.col_indices, count) == pytest.approx(expected, rel=0.05)


def test_union_factor_without_tiles():
    bsr = BSR.from_dense(torch.zeros(64, 64), (16, 16))
    assert union_factor(bsr.crow_indices, bsr.col_indices, 4) == 0
    assert unite(bsr.values.detach(), bsr.crow_indices, bsr.col_indices, 4)[1].tolist() == [0, 0]


def test_which_unions_are_worth_trying():
    def worth(bsr):
        found = worth_uniting(bsr.crow_indices, bsr.col_indices, bsr.tile)
        return tuple(union.count for union in found if not union.sort)

    assert worth(stored_rows(0.05, rows=64, cols=200)) == ()
    assert worth(stored_rows(0.5, rows=64, cols=200)) == (2, 4, 8)
    assert worth(stored_rows(0.7, tile=(64, 16))) == (2,)
    assert worth(stored_rows(0.5, tile=(128, 16))) == ()
    same = torch.zeros(128, 64)
    same[:, 16:32] = 1
    assert worth(BSR.from_dense(same, (16, 16))) == (2, 4, 8)


def kinds(N=272, K=1024, count=4):
    """Rows of 16x16 tiles of four kinds in turn: neighbours have nothing in common; the last tile is half a one."""
    live = torch.zeros(-(-N // 16), K // 16)
    for row in range(len(live)):
        live[row, row % count :: count] = 1
    weight = torch.randn(len(live) * 16, K) * live.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return weight[: N - 8]


def test_rows_that_agree_are_united_wherever_they_lie():
    bsr, x = BSR.from_dense(kinds(), (16, 16), union=4, sort=True), torch.randn(65, 1024)
    indices = bsr.crow_indices, bsr.col_indices
    order = agreeing_rows(*indices, 4)
    assert sorted(order.tolist()) == [*range(17)]
    assert union_factor(*indices, 4) > 3.5 and union_factor(*indices, 4, order) < 1.5
    worth = [str(union) for union in worth_uniting(*indices, (16, 16))]
    assert "union 4 sorted" in worth and "union 4" not in worth
    bias = torch.randn(264)
    with torch.no_grad():
        y = bsr.linear(x, bias)
        residual = torch.randn_like(y)
        ended = bsr.linear(x, bias, "relu", residual)
        act = bsr.linear(x, bias, "relu")
    exact = F.linear(x.double(), bsr.to_dense().double(), bias.double())
    assert_close("y", y, exact, x.dtype)
    assert_close("act", act, exact.relu(), x.dtype)
    assert_close("ended", ended, (exact + residual).relu(), x.dtype)
    assert bsr._cache.by_geometry[()][0].shape[1:] == (64, 16) and bsr.options() == {"union": 4, "sort": True}


def test_unions_are_read_where_x_has_many_rows():
    bsr, x = stored_rows(0.3).united(4), torch.randn(65, 640)
    with torch.no_grad():
        few, many = bsr.linear(x[:64]), bsr.linear(x)
    assert bsr._cache.by_geometry[()][0].shape[1:] == (64, 16)
    assert_close("few", few, F.linear(x[:64].double(), bsr.to_dense().double()), x.dtype)
    assert_close("many", many, F.linear(x.double(), bsr.to_dense().double()), x.dtype)


def test_names_are_unique_and_known():
    assert list(FORMATS) == ["dense", "packed", "compact", "ell", "jit", "bsr", "nm", "cusparselt", "csr"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s["crow_indices"].fill_(1), "crow_indices must rise from 0"),
        (lambda s: s["col_indices"].fill_(9), "col_indices must be in 0"),
        (lambda s: s["col_indices"].fill_(0), "col_indices must rise"),
    ],
)
def test_bsr_rejects_bad_indices(change, message):
    stored = BSR.from_dense(torch.ones(32, 32), (16, 16))
    state = copy.deepcopy(stored.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        stored.load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        BSR(state["values"], state["crow_indices"], state["col_indices"], (32, 32))


def test_csr_checks_indices_that_were_changed_in_place():
    """MKL reads where they say."""
    stored, x = CSR.from_dense(torch.eye(32), (1, 1)), torch.randn(4, 32)
    with torch.no_grad():
        assert torch.equal(stored.linear(x), x)
        stored.col_indices.fill_(10**6)
        with pytest.raises(RuntimeError, match="col_indices"):
            stored.linear(x)


def test_formats_describe_themselves():
    weight = pruned(64, 48, (16, 16), density=0.2)
    zeros = Zeros(weight, 1, (16, 16), Groups(2, 4))
    assert [name for name, format in FORMATS.items() if format.dense] == ["dense", "packed"]
    assert [name for name, format in FORMATS.items() if format.saves] == ["dense", "compact", "bsr", "nm", "csr"]
    for name, format in FORMATS.items():
        assert all(label.split()[0] == name for label, _ in format.candidates(zeros))
        if format.saves:
            given = Zeros(torch.where(torch.arange(48) % 4 < 2, weight, 0), 1, (16, 16), Groups(2, 4))
            stored = format.from_zeros(given)
            state = {key: tensor for key, tensor in stored.state_dict().items()}
            again = format.from_saved([state.pop(key) for key in format.saves], stored.shape, 1)
            assert not state and torch.equal(again.to_dense(), given.weight)


def test_says_what_it_cannot_hold():
    with pytest.raises(ValueError, match="packed needs float32"):
        Packed.from_dense(torch.ones(4, 4, dtype=torch.float64), (1, 1))
    with pytest.raises(ValueError, match="union must count"):
        BSR.from_dense(torch.ones(4, 4), (2, 2), union=0)
    with pytest.raises(ValueError, match="tiles must not be that much larger"):
        BSR.from_dense(torch.ones(4, 4), (8, 2**18))
    with pytest.raises(ValueError, match="engine must be one of"):
        ELL.from_dense(torch.ones(4, 4), (2, 2), engine="mkl")
    with pytest.raises(ValueError, match="engine onednn needs"):
        ELL.from_dense(torch.ones(4, 4, dtype=torch.float16), (2, 2))
    with pytest.raises(ValueError, match="rows must be ascending"):
        Compact(torch.ones(2, 1), torch.tensor([1, 0]), torch.tensor([0]), (4, 4))
    with pytest.raises(ValueError, match="values must be"):
        Compact(torch.ones(2, 2), torch.tensor([0, 1]), torch.tensor([0]), (4, 4))
    with pytest.raises(ValueError, match=r"columns must be taps \* channels"):
        Dense.from_dense(torch.ones(4, 4), (1, 1), taps=3)


def test_bsr_sorts_once_per_change_of_the_indices(monkeypatch):
    made, index = [], indexed.block_index
    monkeypatch.setattr(indexed, "TRITON_DEVICES", ("cpu",))
    monkeypatch.setattr(indexed, "block_index", lambda *args: made.append(1) or index(*args))
    stored = BSR.from_dense(pruned(64, 48, (16, 16)), (16, 16))
    optimizer = torch.optim.SGD(stored.parameters(), 0.1)
    for _ in range(3):
        stored.linear(torch.randn(4, 48)).sum().backward()
        optimizer.step()
    assert len(made) == 1
    stored.load_state_dict(stored.state_dict())
    stored.linear(torch.randn(4, 48))
    pickle.loads(pickle.dumps(stored)).linear(torch.randn(4, 48))
    assert len(made) == 3
