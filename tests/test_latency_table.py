"""latency_table: what is timed, how often, and what stays; by an imagined clock."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from smart_kernels import NM, Block, Channel, latency_table, mask_
from smart_kernels.convert.latency import Curve, build, cache, default_patterns
from smart_kernels.convert.latency.measure import with_zeros
from smart_kernels.convert.measure import timing
from smart_kernels.formats import JIT
from smart_kernels.nn import Sparse
from tests.conftest import INTERPRETED
from tests.test_transactions import everything

if INTERPRETED:
    pytest.skip("measures layers, which takes hours in the interpreter", allow_module_level=True)

FIXED, EACH = 0.1, 1.2  # a sparse product takes FIXED + EACH * density of the dense one
PATTERNS = (Block(16, 16, "all"), Block(32, 32, "all"))


def seconds(module):
    """Return what a model or a layer takes on the imagined clock."""
    if isinstance(module, Sparse) and not module.format.dense:
        whole = module.format.shape[0] * module.format.shape[1]
        return 1e-6 * (FIXED * whole + EACH * module.format.values.count_nonzero().item())
    if isinstance(module, Sparse | nn.Linear | nn.Conv2d):
        return 1e-6 * module.weight.numel()
    return sum(map(seconds, module.children()))


def called(call):
    """The module that a candidate runs."""
    return next(part for part in (*call.args, call.func) if isinstance(part, nn.Module))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Replace the clock; returns what was timed: the number of candidates of each comparison."""
    compared = []

    def fake(candidates, *_):
        compared.append(len(candidates))
        return {name: [seconds(called(call))] * 4 for name, call in candidates.items()}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    monkeypatch.setattr(JIT, "candidates", lambda zeros: iter(()))  # each would be compiled
    return compared


def mlp():
    torch.manual_seed(0)
    sizes = pairwise((64, 128, 128, 128, 10))
    return nn.Sequential(*(part for size in sizes for part in (nn.Linear(*size), nn.ReLU()))).eval()


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.twice = nn.Linear(64, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        x = self.attention(x, x, x, need_weights=False)[0]
        pixels = self.norm(self.conv(x.reshape(len(x), 16, 4, -1)))
        return self.head(self.twice(self.twice(x)) + pixels.mean())


def table_of(model, x, tmp_path, patterns=PATTERNS, **settings):
    return latency_table(model, x, patterns, **{"cache": tmp_path, "progress": False, **settings})


def test_the_law_of_the_clock_is_found(tmp_path):
    table = table_of(mlp(), torch.randn(4, 64), tmp_path)
    assert list(table.layers) == ["2", "4", "0"], "the largest first; the last Linear is the head"
    assert table.cost.ms == pytest.approx(1e3 * seconds(mlp()))
    layer = table.layers["2"]
    assert (layer.shape, layer.calls, layer.macs) == ((128, 1, 128), 1, 4 * 128 * 128)
    assert layer.dense_ms == pytest.approx(128 * 128 * 1e-3)
    for pattern in PATTERNS:
        for density in (0.0625, 0.1, 0.21, 0.4, 0.5):
            assert layer.ms(pattern, density) == pytest.approx(layer.dense_ms * (FIXED + EACH * density), rel=1e-4)
        assert layer.curves[str(pattern)].slope(0.3) == pytest.approx(EACH, rel=1e-4)


def test_each_problem_is_measured_once_and_never_again(tmp_path, clock):
    x = torch.randn(4, 64)
    first = table_of(mlp(), x, tmp_path)
    assert (first.measured, first.read, first.missing) == (2 * 2 * 3, 0, ()), "problems x patterns x densities"
    assert first.layers["2"].curves == first.layers["4"].curves
    clock.clear()
    again = table_of(mlp(), x, tmp_path)
    assert (again.measured, again.read) == (0, 12) and again.layers == first.layers
    assert len(clock) < 10, "the dense model and its layers"
    other = table_of(mlp(), torch.randn(5, 64), tmp_path)
    assert other.measured == 12, "another number of rows is another problem"


def test_entries_hold_for_their_versions_alone(tmp_path, monkeypatch):
    x = torch.randn(4, 64)
    table_of(mlp(), x, tmp_path)
    monkeypatch.setattr(cache.metadata, "version", lambda package: "99")
    assert table_of(mlp(), x, tmp_path).measured == 12
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"conditions": {}, "entries": {}}', None])
def test_a_damaged_file_is_replaced(damage, tmp_path, caplog):
    x = torch.randn(4, 64)
    table_of(mlp(), x, tmp_path)
    (path,) = tmp_path.iterdir()
    if damage is None:
        content = json.loads(path.read_text())
        next(iter(content["entries"].values()))["ratio"] = -1
        damage = json.dumps(content)
    path.write_text(damage)
    assert table_of(mlp(), x, tmp_path).measured == 12
    assert "no latency cache" in caplog.text
    assert table_of(mlp(), x, tmp_path).measured == 0


def test_no_file_where_none_is_wanted_or_possible(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    table_of(mlp(), torch.randn(4, 64), None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    table_of(mlp(), torch.randn(4, 64), tmp_path / "file" / "below")
    assert "keeps nothing" in caplog.text
    table_of(mlp(), torch.randn(4, 64), "")
    assert len(list((tmp_path / "home" / "smart_kernels" / "latency").glob("*.json"))) == 1


def test_what_there_is_no_time_for_is_named_and_what_was_measured_stays(tmp_path, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(build.time, "monotonic", lambda: next(now))
    x = torch.randn(4, 64)
    table = table_of(mlp(), x, tmp_path, seconds=6)
    assert table.measured == 5 and len(table.missing) == 12 - 5
    assert "no time was left for 0 as block:32x32:all at a density of 0.05" in table.missing
    assert all(layer.curves for layer in table.layers.values()), "each problem has a first point before any has more"
    assert table_of(mlp(), x, tmp_path).read == 5


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch):
    model, measure, count = mlp(), build.measure_sparse, iter(range(100))

    def interrupted(*job):
        if next(count) == 3:
            raise KeyboardInterrupt
        return measure(*job)

    before = everything(model)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "measure_sparse", interrupted)
        table_of(model, torch.randn(4, 64), tmp_path)
    assert everything(model) == before
    assert table_of(model, torch.randn(4, 64), tmp_path).read == 3


def test_the_model_is_left_as_it_was(tmp_path):
    model, x = Attending().train(), torch.randn(2, 8, 64)
    before = everything(model)
    table = table_of(model, x, tmp_path)
    assert everything(model) == before
    assert set(table.layers) == {"twice", "conv", *(f"attention.{part}_proj" for part in ("q", "k", "v", "out"))}
    assert table.layers["twice"].calls == 2
    assert set(table.layers["twice"].names) == {"twice"}


def test_tied_layers_are_one(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    model[2].weight = model[0].weight
    table = table_of(model, torch.randn(4, 64), tmp_path)
    assert [layer.names for layer in table.layers.values()] == [("0", "2")] and table.layers["0"].calls == 2


def test_patterns_that_are_one_in_a_shape_are_measured_once(tmp_path):
    patterns = (Block(16, 16), Block(16, 16, "all"), Channel(), NM(2, 4))
    table = table_of(mlp(), torch.randn(4, 64), tmp_path, patterns)
    curves = table.layers["0"].curves
    assert list(curves) == ["block:16x16", "channel", "nm:2:4"], "a Linear has one tap"
    assert curves["nm:2:4"].densities == (0.5,)
    assert table_of(Attending(), torch.randn(2, 8, 64), tmp_path, patterns[:2]).layers["conv"].curves.keys() == {
        "block:16x16",
        "block:16x16:all",
    }


def test_a_plateau_is_dense():
    curve = Curve(Block(16, 16), (0.05, 0.2, 0.5), (0.5, 0.9, 1.2), ("a", "b", "c"))
    assert [curve.ratio(density) for density in (0.01, 0.05, 0.125)] == pytest.approx([0.5, 0.5, 0.7])
    assert curve.ratio(0.25) == pytest.approx(0.95)
    assert [curve.ratio(density) for density in (0.28, 0.3, 0.5, 0.7)] == [1.0] * 4, "less than the margin is no win"
    assert [curve.label(density) for density in (0.0, 0.1, 0.3, 0.9)] == ["a", "a", "b", "c"]
    assert Curve(NM(2, 4), (0.5,), (0.6,), ("a",)).slope(0.5) == 0
    assert Curve(Block(8, 8), (0.1, 0.2), (0.5, 0.4), ("a", "a")).slope(0.15) == 0, "noise is no gain"


def test_layers_are_not_said_to_take_longer_than_the_model(tmp_path, monkeypatch):
    measured = build._measured
    monkeypatch.setattr(build, "_measured", lambda *given: replace(measured(*given), ms=1e6))
    table = table_of(mlp(), torch.randn(4, 64), tmp_path)
    assert sum(layer.dense_ms for layer in table.layers.values()) <= table.cost.ms
    assert table.factor < 1e-3


@pytest.mark.parametrize("rest_saved", [0.0, 0.3])
def test_what_the_rest_saves_with_the_layers_is_counted_to_them(rest_saved, tmp_path, monkeypatch):
    """The clock says that a model with sparse layers saves in between, too, as smaller weights push out less."""
    alone = seconds

    def in_model(module):
        if isinstance(module, Sparse | nn.Linear) or not module._modules:
            return alone(module)
        zeros = sum(whole(part) - alone(part) for part in module.modules() if isinstance(part, Sparse | nn.Linear))
        return alone(module) - rest_saved * zeros + 1.0

    def whole(layer):
        size = layer.format.shape if isinstance(layer, Sparse) else layer.weight.shape
        return 1e-6 * size[0] * size[1]

    monkeypatch.setitem(globals(), "seconds", in_model)
    table = table_of(mlp(), torch.randn(4, 64), tmp_path)
    assert table.factor == pytest.approx(1 + rest_saved, rel=1e-3)
    assert f"a layer counts {1 + rest_saved:.2f} times" in str(table)
    layer = table.layers["2"]
    assert layer.dense_ms == pytest.approx((1 + rest_saved) * 128 * 128 * 1e-3, rel=1e-3)


def test_without_a_gain_a_layer_counts_what_it_takes(tmp_path):
    table = table_of(mlp(), torch.randn(4, 64), tmp_path, densities=(0.99,))
    assert table.factor == 1.0


def test_it_prints_each_problem_once(tmp_path):
    text = str(table_of(mlp(), torch.randn(4, 64), tmp_path))
    assert text.count("2 and 1 alike") == 2 and "12 entries measured, 0 from the cache" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patterns": ()}, "needs patterns"),
        ({"densities": (0.5, 1.0)}, "densities in"),
        ({"patterns": ("block",)}, "pattern must be one such as"),
        ({"patterns": (Block(512, 512),)}, "must have a layer to prune as block:512x512, got none"),
        ({"cuda_graph": True}, "cuda_graph=True needs a model on a CUDA device"),
    ],
)
def test_clear_errors(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        table_of(mlp(), torch.randn(4, 64), tmp_path, **change)


def test_a_masked_model_is_refused(tmp_path):
    model = mlp()
    mask_(model, Block(16, 16))
    with pytest.raises(ValueError, match="latency_table needs plain layers, got masked ones"):
        table_of(model, torch.randn(4, 64), tmp_path)


def test_default_patterns_are_those_with_a_fast_form():
    on_cpu = default_patterns(torch.device("cpu"), torch.float32)
    assert on_cpu == (Block(16, 16, "all"), Block(32, 32, "all"), Block(64, 64, "all"))
    on_gpu = default_patterns(torch.device("cuda"), torch.float32)
    assert on_gpu == (Block(32, 32), Block(64, 64), Block(128, 128)), "the height of a block decides"
    assert default_patterns(torch.device("cuda"), torch.bfloat16) == (*on_gpu, NM(2, 4))


def test_random_zeros_are_the_same_everywhere():
    layer = nn.Linear(64, 64)
    layer.weight.data[3] = 0
    pruned = partial(with_zeros, layer, Block(16, 16), 0.25)
    (one, density), (other, _) = pruned(), pruned()
    assert torch.equal(one.weight, other.weight) and density == 0.25 == one.weight.ne(0).float().mean()
    assert layer.weight[3].eq(0).all()
