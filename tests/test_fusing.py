"""Layers that do in their launch what follows them, and layers that are one launch: right whatever the model does."""

import copy
import json
import secrets
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.claimed import claimed
from bench.encoder import Encoder
from bench.resnet import ResNet
from smart_kernels import Block, SparseConv2d, SparseLinear, compress_, load, save, warmup
from smart_kernels.convert.compress.fusing import fuse_, fusions
from smart_kernels.convert.compress.report import LayerReport
from smart_kernels.convert.compress.warmup import Uncomputed
from smart_kernels.convert.measure import timing
from smart_kernels.convert.modules import fold_batchnorm_, swap_
from smart_kernels.formats import BSR
from smart_kernels.kernels.common import compiling
from smart_kernels.nn import Epilogue, Joined, Sparse
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("the interpreter has no driver, and nothing here is computed by a kernel", allow_module_level=True)

TILE = Block(16, 16)
ADDED = torch.randn(4, 32)


class Log(list):
    """What a layer has computed: activation, and whether something was added."""

    def of(self, layer):
        finished = layer.finished

        def logged(x, activation, residual):
            self.append((activation, residual is not None))
            return finished(x, activation, residual)

        layer.finished = logged
        return layer


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def layer(log):
    return log.of(SparseLinear(32, 32, TILE, 0.5))


def in_place(y):
    y += ADDED
    return y


def written_into(y):
    y[0] = 1.0
    return y + 0


ACTIVATED = {
    "gelu": (F.gelu, nn.GELU(), lambda y: F.gelu(nn.Dropout(0.5).eval()(y))),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), nn.GELU("tanh")),
    "relu": (F.relu, torch.relu, Tensor.relu, Tensor.relu_, nn.ReLU(inplace=True), torch.relu_),
    "relu6": (F.relu6, nn.ReLU6(), nn.ReLU6(inplace=True)),
    "silu": (F.silu, nn.SiLU(), nn.SiLU(inplace=True)),
}
SUMS = (
    lambda y: y + ADDED,
    lambda y: ADDED + y,
    lambda y: torch.add(y, ADDED),
    lambda y: ADDED.add(F.dropout(y, 0.1, training=False)),
    lambda y: y.add_(ADDED),
    in_place,
)
GELU, ADD, BOTH = Epilogue("gelu"), Epilogue(None, True), Epilogue("relu", True)
FUSED = [(function, Epilogue(name)) for name, functions in ACTIVATED.items() for function in functions]
FUSED += [(function, ADD) for function in SUMS]
FUSED += [(lambda y, function=function: F.relu(function(y), inplace=True), BOTH) for function in SUMS]
PLAIN = (None, False)
OTHERS = [  # what another path through a model may do, and what is computed then
    (lambda y: F.gelu(y + ADDED), BOTH, [(None, True)]),
    (lambda y: F.layer_norm(y + ADDED, (32,)), BOTH, [(None, True)]),
    (lambda y: F.silu(y), GELU, [PLAIN]),
    (lambda y: F.gelu(y) + y, GELU, [("gelu", False), PLAIN]),
    (lambda y: y + y, ADD, [PLAIN]),
    (lambda y: y * 2, ADD, [PLAIN]),
    (lambda y: torch.add(y, ADDED, alpha=2), ADD, [PLAIN]),
    (lambda y: y + ADDED[0], ADD, [PLAIN]),
    (lambda y: y + ADDED.double(), ADD, [PLAIN]),
    (lambda y: ADDED.clone().add_(y), ADD, [PLAIN]),
    (lambda y: y.view(2, 2, 32).sum(0), GELU, [PLAIN]),
    (lambda y: torch.cat([y, ADDED]), GELU, [PLAIN]),
    (lambda y: torch.ops.aten.gelu(y), GELU, [PLAIN]),
    (lambda y: torch.from_numpy(y.numpy() + 1), GELU, [PLAIN]),
    (lambda y: copy.deepcopy(y) + 1, GELU, [PLAIN]),
    (written_into, GELU, [PLAIN]),
]


@pytest.mark.parametrize("function, epilogue, computed", [(f, e, [tuple(e)]) for f, e in FUSED] + OTHERS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whatever_follows_the_result_is_that_of_the_plain_layer(function, epilogue, computed, mode, layer, log):
    x = torch.randn(4, 32)
    with mode():
        expected = function(layer(x))
        layer.epilogue = epilogue
        got = function(layer(x))
    assert type(got) is Tensor
    assert_close("y", got, expected.double(), torch.float32)
    assert log == computed


def test_warmup_runs_what_will_be_run(layer, log):
    layer.epilogue = BOTH
    warmup(nn.Sequential(layer), [3])
    with torch.no_grad(), compiling() as compiler, Uncomputed(compiler):
        F.relu(layer(torch.ones(4, 32)) + ADDED)
    assert log == [("relu", True)] * 2


def test_a_convolution_adds_images(log):
    layer = log.of(SparseConv2d(16, 32, 3, TILE, 0.5, padding=1))
    layer.epilogue = BOTH
    x, other = torch.randn(2, 16, 5, 4), torch.randn(2, 32, 5, 4)
    with torch.no_grad():
        got = F.relu(other + layer(x))
        layer.epilogue = None
        assert_close("y", got, F.relu(other + layer(x)).double(), torch.float32)
    assert log == [("relu", True)]


def test_nothing_waits_where_somebody_else_would_have_to_know(layer, log):
    layer.epilogue = GELU
    x = torch.randn(4, 32)
    assert F.gelu(layer(x)).requires_grad
    with torch.no_grad():
        with torch.autocast("cpu"):
            F.gelu(layer(x))
        torch.compile(lambda x: F.gelu(layer(x)), backend="eager")(x)
        torch.jit.trace(nn.Sequential(layer, nn.GELU()), x, check_trace=False)
        torch.export.export(nn.Sequential(layer, nn.GELU()), (x,))
        with FlopCounterMode(display=False):
            F.gelu(layer(x))
    assert log == []


@pytest.mark.parametrize("spoil", [lambda x, other: x.add_(1), lambda x, other: other.add_(1)])
def test_an_input_that_is_written_into_meanwhile_is_said(spoil, layer):
    layer.epilogue = BOTH
    x, other = torch.randn(4, 32), torch.randn(4, 32)
    with torch.no_grad():
        y = layer(x) + other
        spoil(x, other)
        with pytest.raises(RuntimeError, match=r"must stay as they are until the output is read.*residual\+relu"):
            F.relu(y)


SPARSE = partial(SparseLinear, pattern=TILE, density=0.5)


class Inputs(nn.Module):
    """Three projections of one tensor, of which two read another for an odd number of rows."""

    def __init__(self, kind=SPARSE):
        super().__init__()
        self.q, self.k, self.v = kind(32, 32), kind(32, 48, bias=False), kind(32, 40)

    def forward(self, x):
        q = self.q(x)
        if x.shape[0] % 2:
            x = x * 2
        return q, self.k(x), self.v(x)


def join(model):
    together = Joined((model.q, model.k, model.v), (16, 16))
    for layer in together.layers:
        layer.joined = together
    return model


def products(model, x, monkeypatch):
    """The outputs, and how many rows of weights each product had."""
    rows, linear = [], BSR.linear

    def counted(self, *args):
        rows.append(self.shape[0])
        return linear(self, *args)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(BSR, "linear", counted)
        return model(x), rows


def same(got, expected):
    for y, exact in zip(got, expected, strict=True):
        assert_close("y", y, exact.double(), torch.float32)


@pytest.mark.parametrize("rows, computed", [(4, [120]), (3, [120, 48, 40])])
def test_projections_of_one_tensor_are_one_product(rows, computed, monkeypatch):
    model, x = Inputs(), torch.randn(rows, 32)
    with torch.no_grad():
        expected = model(x)
    state = model.state_dict()
    got, found = products(join(model), x, monkeypatch)
    same(got, expected)
    assert found == computed
    assert model.state_dict().keys() == state.keys()


def test_what_is_joined_follows_its_layers(monkeypatch):
    model, x = join(Inputs()), torch.randn(4, 32)
    with torch.no_grad():
        first = model(x)
        model.q(x.add_(1))
        assert_close("k", model.k(x.mul_(2)), F.linear(x, model.k.weight).double(), torch.float32)
        other = copy.deepcopy(model)
        model.v.format.values.mul_(2)
        model.q.bias.data.zero_()
    got, found = products(model, x, monkeypatch)
    same(got, [F.linear(x, each.weight, each.bias) for each in (model.q, model.k, model.v)])
    same(other(x), [F.linear(x, each.weight, each.bias) for each in (other.q, other.k, other.v)])
    assert found == [120] and len(first) == 3
    swap_(model, {model.k: model.k.to_dense()})
    assert products(model, x, monkeypatch)[1] == [32, 40]
    assert all(y.requires_grad for y in model(x))


class Bottleneck(nn.Module):
    """As torchvision writes it: one module for all activations, in place."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(64, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 64, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.one(x))
        out = self.three(self.relu(self.two(out)))
        out += x
        return self.relu(out)


class Gated(nn.Module):
    """The feed-forward layers of a language model."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x):
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Deep(nn.Module):
    """Adds the output of a module outside of it; its activation is a module of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Dropout(), nn.Linear(128, 64), nn.Dropout())

    def forward(self, x):
        x = x + self.mlp(self.norm(x))
        return self.norm(x)


ENCODER = partial(Encoder, layers=1, width=64, hidden=128, heads=2)
RESNET = partial(ResNet, ((1, 32),), 10)
TOKENS, IMAGES = (2, 9, 64), (1, 3, 32, 32)
COUNTS = [  # model, input, (products, activations, sums) as it came and fused
    pytest.param(ENCODER, TOKENS, (6, 1, 2), (4, 0, 0), id="encoder"),
    pytest.param(Deep, TOKENS, (2, 1, 1), (2, 0, 0), id="mlp"),
    pytest.param(Gated, TOKENS, (3, 1, 1), (2, 1, 0), id="gated"),
    pytest.param(Bottleneck, (1, 64, 8, 8), (3, 3, 1), (3, 0, 0), id="bottleneck"),
    pytest.param(RESNET, IMAGES, (6, 4, 1), (6, 0, 0), id="resnet"),
]
ACTIVATIONS = ("aten::gelu", "aten::relu", "aten::relu_", "aten::silu", "aten::clamp_min", "aten::clamp_min_")


def sparse_(model):
    """Make every layer a sparse one, and return the lines that say so."""
    layers = {name: m for name, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)}
    for layer in layers.values():
        kind = SparseConv2d if isinstance(layer, nn.Conv2d) else SparseLinear
        tile = Block(2 if layer.weight.shape[0] % 16 else 16, 1 if layer.weight.shape[1] % 16 else 16)
        swap_(model, {layer: kind.from_dense(layer, tile, 0.3)})
    return tuple(LayerReport(name, (0, 0, 0), 0.7, m.format.tile, "bsr") for name, m in layers.items())


def counted(model, x, driver):
    """How many launches are ours, and how many activations and sums are torch's."""
    driver.launches.clear()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    names = [event.name for event in profile.events()]
    outer = [name for name in names if name in ACTIVATIONS[:4]]
    return len(driver.launches), len(outer), sum(name in ("aten::add", "aten::add_") for name in names)


@pytest.mark.parametrize("make, size, came, fused", COUNTS)
def test_a_block_launches_no_more_than_its_products(make, size, came, fused):
    model = make().eval()
    fold_batchnorm_(model)
    rows = sparse_(model)
    x = torch.randn(size)
    with claimed() as driver, torch.no_grad():
        model(x)
        assert counted(model, x, driver) == came
        fuse_(model, fusions(model, rows, x))
        model(x)
        assert counted(model, x, driver) == fused


@pytest.fixture
def measured(monkeypatch):
    """Injected timings by candidate name; what is not listed takes 1 s."""
    seconds = {"bsr": 0.5, "chosen": 0.4, "fused": 0.3}

    def fake(candidates, *_):
        return {name: [seconds.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    monkeypatch.setattr(BSR, "fuses", lambda self: self.name == BSR.name)  # as on a GPU
    return seconds


def pruned(make):
    model = make().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and min(layer.weight.shape[:2]) >= 32:
            layer.weight.data[:16, :16] = layer.weight.data[16:32, 16:32] = 0
    return model


def fused_in(model):
    return {name: m.epilogue or m.joined for name, m in model.named_modules() if isinstance(m, SparseLinear)}


@pytest.mark.parametrize("make, size", [case.values[:2] for case in COUNTS])
def test_compress_fuses_what_it_finds_and_files_remember_it(make, size, measured, tmp_path):
    model, x = pruned(make), torch.randn(size)
    with torch.no_grad():
        expected = model(x)
        report = compress_(model, x, backends=("dense", "bsr"), seconds=0)
        assert_close("y", model(x), expected.double(), torch.float32)
    assert any(row.activation or row.residual for row in report.rows) and report.after.ms == 300
    found = {row.name: Epilogue(row.activation, row.residual) for row in report.rows}
    assert all((m.epilogue or Epilogue()) == found[n] for n, m in model.named_modules() if isinstance(m, Sparse))
    save(model, tmp_path / "saved", report)
    again = make().eval()
    assert load(again, tmp_path / "saved") == report
    kinds = [[type(m.epilogue) for m in each.modules() if isinstance(m, Sparse)] for each in (model, again)]
    joined = [[m.joined is None for m in each.modules() if isinstance(m, SparseLinear)] for each in (model, again)]
    assert kinds[0] == kinds[1] and joined[0] == joined[1]
    with torch.no_grad():
        assert_close("y", again(x), expected.double(), torch.float32)


@pytest.mark.parametrize(
    "change, joins",  # with what reads another tensor, has other sizes, is not there
    [
        ({"activation": "tanh"}, None),
        ({"joined": ["0.query", "0.up"]}, True),
        ({"joined": ["0.query", "0.down"]}, False),
        ({"joined": ["0.query", "1"]}, False),
    ],
)
def test_a_report_that_somebody_changed_does_no_harm(change, joins, measured, tmp_path):
    model, x = pruned(ENCODER), torch.randn(TOKENS)
    save(model, tmp_path, compress_(model, x, backends=("dense", "bsr"), seconds=0))
    config = json.loads((tmp_path / "config.json").read_text())
    for row in config["report"]["rows"]:
        row |= {"joined": []} | (change if row["name"] == "0.query" else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = ENCODER().eval()
    if joins is None:
        with pytest.raises(ValueError, match="activations must be out of"):
            load(again, tmp_path)
    else:
        load(again, tmp_path)
        assert (again[0].query.joined is not None) == joins
        with torch.no_grad():
            assert_close("y", again(x), model(x).double(), torch.float32)


def test_what_is_not_faster_fused_stays_apart(measured):
    measured["fused"] = 0.4
    model = pruned(ENCODER)
    report = compress_(model, torch.randn(TOKENS), backends=("dense", "bsr"), seconds=0)
    assert not any(fused_in(model).values()) and not any(row.fusions for row in report.rows)


class Contiguous(Inputs):
    """Views the output of a layer as rows that follow each other, which columns of a buffer are not."""

    def forward(self, x):
        return torch.cat([part.view(-1) for part in super().forward(x)])


class Restless(Contiguous):
    """Returns something else each time, so that nothing tells whether a change is one."""

    def forward(self, x):
        return super().forward(x) + secrets.randbelow(10**6)


@pytest.mark.parametrize("kind", [Contiguous, Restless])
def test_what_fails_fused_stays_apart(kind, measured, caplog):
    model, x = pruned(partial(kind, nn.Linear)), torch.randn(4, 32)
    with torch.no_grad():
        expected = model(x)
        report = compress_(model, x, backends=("dense", "bsr"), seconds=0)
        if kind is Contiguous:
            assert_close("y", model(x), expected.double(), torch.float32)
    assert [row.choice for row in report.rows] == ["bsr"] * 3 and not any(fused_in(model).values())
    assert "not fused" in caplog.text


def test_compressed_again_nothing_old_is_left(measured):
    model, x = pruned(ENCODER), torch.randn(TOKENS)
    compress_(model, x, backends=("dense", "bsr"), seconds=0)
    assert all(fused_in(model).values())
    measured |= {"fused": 0.4, "original": 1.0}
    compress_(model, x, backends=("dense", "bsr"), seconds=0)
    assert len(fused_in(model)) == 6 and not any(fused_in(model).values())
    measured["original"] = 0.1
    report = compress_(model, x, backends=("dense", "bsr"), seconds=0)
    assert [row.choice for row in report.rows] == ["bsr"] * 6


@pytest.mark.gpu
def test_a_graph_holds_what_is_fused():
    model = ENCODER().eval()
    rows = sparse_(model)
    model = model.cuda()
    x = torch.randn(TOKENS, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        expected = [model(x), model(x + 1)]
        fuse_(model, fusions(model, rows, x))
        warmup(model, [TOKENS])
        with torch.cuda.graph(graph):
            y = model(x)
        for shift, exact in zip((0, 1), expected, strict=True):
            x.add_(shift)
            graph.replay()
            assert_close("y", y, exact.double(), torch.float32)
