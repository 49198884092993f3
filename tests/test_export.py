"""torch.export, AOTInductor and ONNX of every format: a batch that changes, and the same outputs."""

import contextlib
import copy
import importlib.util
import shutil

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, Channel, SparseConv2d, SparseLinear, compress_
from smart_kernels.formats import BSR, CSR, ELL, JIT, Compact, Dense, Packed, SemiStructured
from smart_train import SmartPruner
from tests.util import assert_close

BATCH = torch.export.Dim("batch", min=2)
LLVM = importlib.util.find_spec("llvmlite")
FORMATS = [
    pytest.param(Dense, {}, id="dense"),
    pytest.param(Packed, {}, id="packed"),
    pytest.param(Compact, {}, id="compact"),
    pytest.param(CSR, {}, id="csr"),
    pytest.param(BSR, {}, id="bsr"),
    pytest.param(BSR, {"union": 2}, id="bsr-union"),
    pytest.param(ELL, {"engine": "onednn"}, id="ell-onednn"),
    pytest.param(ELL, {"engine": "bmm"}, id="ell-bmm"),
    pytest.param(JIT, {}, id="jit", marks=pytest.mark.skipif(not LLVM, reason="needs llvmlite")),
    pytest.param(SemiStructured, {}, id="nm"),
]
LAYERS = ["linear", "linear-of-sequences", "conv1x1", "conv3x3"]


def layer(kind, cls, options):
    """A sparse layer 32 -> 32 that every format can hold, and two batches of different length."""
    taps = 9 if kind == "conv3x3" else 1
    weight = torch.randn(32, taps * 32)
    weight[:16, :16] = 0
    weight[16:24] = 0
    if cls is SemiStructured:
        weight.view(-1, 4)[:, 2:] = 0
    try:
        stored = cls.from_dense(weight, (8, 8), taps=taps, **options)
    except ValueError as error:
        pytest.skip(str(error))
    bias = nn.Parameter(torch.randn(32))
    if kind.startswith("conv"):
        size = 3 if taps == 9 else 1
        like = nn.Conv2d(32, 32, size, stride=2, padding=size // 2)
        return SparseConv2d.from_format(stored, bias, like).eval(), torch.randn(4, 32, 7, 6), torch.randn(3, 32, 7, 6)
    shape = (5, 32) if kind == "linear-of-sequences" else (32,)
    return SparseLinear.from_format(stored, bias).eval(), torch.randn(4, *shape), torch.randn(3, *shape)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("cls, options", FORMATS)
def test_dynamic_batch(cls, options, kind):
    module, example, x = layer(kind, cls, options)
    exported = torch.export.export(nn.Sequential(module), (example,), dynamic_shapes=({0: BATCH},))
    with torch.no_grad():
        assert_close("y", exported.module()(x), module(x), x.dtype)
        assert_close("example", exported.module()(example), module(example), x.dtype)


@pytest.mark.parametrize("pattern", [Block(8, 8), Channel(), NM(2, 4)], ids=str)
def test_dynamic_batch_of_layers_that_train(pattern):
    layers = SparseConv2d(4, 8, 3, pattern, 0.5), nn.Flatten(), SparseLinear(8 * 25, 8, pattern, 0.5)
    model, x = nn.Sequential(*layers), torch.randn(3, 4, 7, 7)
    exported = torch.export.export(model, (torch.randn(5, 4, 7, 7),), dynamic_shapes=({0: BATCH},))
    with torch.no_grad():
        assert_close("y", exported.module()(x), model(x), x.dtype)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("kind", LAYERS)
def test_ahead_of_time_inductor(kind, tmp_path):
    """All formats, one layer of each after the other: one program to compile."""
    layers = []
    for cls, options in (each.values for each in FORMATS):
        with contextlib.suppress(pytest.skip.Exception):  # no such layer in this format, or no llvmlite
            layers.append(layer(kind, cls, options))
    model, (_, example, x) = nn.Sequential(*(module for module, _, _ in layers)), layers[0]
    exported = torch.export.export(model, (example,), dynamic_shapes=({0: BATCH},))
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
    compiled = torch._inductor.aoti_load_package(package)
    with torch.no_grad():
        for batch in (x, example):
            assert_close("y", compiled(batch), model(batch), batch.dtype)


def in_onnxruntime(model, example, x, path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    options = {"dynamic_shapes": ({0: BATCH},), "external_data": False, "verbose": False}
    torch.onnx.export(model, (example,), str(path), dynamo=True, **options)
    session = runtime.InferenceSession(str(path))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize("kind", ["linear", "conv3x3"])
@pytest.mark.parametrize("cls, options", FORMATS)
def test_onnx(cls, options, kind, tmp_path):
    module, example, x = layer(kind, cls, options)
    y = in_onnxruntime(nn.Sequential(module), example, x, tmp_path / "model.onnx")
    with torch.no_grad():
        assert_close("y", y, module(x), x.dtype)


@pytest.mark.parametrize("pattern, sparsity", [(Block(8, 8), 0.5), (NM(2, 4), None)], ids=["block", "nm"])
def test_onnx_of_a_finalized_and_of_a_compressed_model(pattern, sparsity, tmp_path):
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(400, 16))
    SmartPruner(model, pattern, sparsity, search_steps=1).finalize()
    model.eval()
    example, x = torch.randn(4, 8, 7, 7), torch.randn(3, 8, 7, 7)
    small = copy.deepcopy(model)
    report = compress_(small, example, policy="size", seconds=0.01)
    assert any(row.sparse for row in report.rows)
    with torch.no_grad():
        expected = model(x)
    assert_close("finalized", in_onnxruntime(model, example, x, tmp_path / "dense.onnx"), expected, x.dtype)
    assert_close("compressed", in_onnxruntime(small, example, x, tmp_path / "small.onnx"), expected, x.dtype)


# ---- who watches the operations sees them


def traced(module, x):
    return torch.jit.trace(module, x, check_trace=False)(x + 1)


def made_graph(module, x):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(module)(x)(x + 1)


def vectorised(module, x):
    return torch.vmap(module)((x + 1)[None])[0]


def on_fake_tensors(module, x):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = module(mode.from_tensor(x))
    assert y.shape == module(x).shape
    return module(x + 1)


def derived_forward(module, x):
    _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    return module(x) + tangent  # linear: one step along the derivative


def negated_lazily(module, x):
    return module(torch._neg_view(-x - 1))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("watch", [traced, made_graph, vectorised, on_fake_tensors, derived_forward, negated_lazily])
@pytest.mark.parametrize("kind", ["linear", "conv3x3"])
@pytest.mark.parametrize("cls, options", FORMATS)
def test_who_watches_sees_every_operation(cls, options, kind, watch):
    module, x, _ = layer(kind, cls, options)
    with torch.no_grad():
        module(x)  # the fast path is ready
        try:
            y = watch(module, x)
        except NotImplementedError as error:  # an operator of ours without such a derivative says so
            assert "jvp" in str(error) or "forward" in str(error).lower()
            return
        assert_close("y", y, module(x + 1), x.dtype)
