"""compress_: what it may choose, and that nothing but the speed changes."""

import copy
import io
import json
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import DENSE, NM, Block, SparseLinear, compare, compress_, load, mask_, save
from smart_kernels.convert.compress.alike import Likeness, Measured, likeness
from smart_kernels.convert.compress.candidates import candidates
from smart_kernels.convert.compress.explain import explaining_tile, zeros_of
from smart_kernels.convert.compress.select import Outcome, Selected, Subject, select
from smart_kernels.convert.compress.settings import Settings
from smart_kernels.convert.measure import timing
from smart_kernels.convert.measure.choice import Choice, choose, settle
from smart_kernels.formats import BSR, CSR, ELL, Compact
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("measures layers, which takes hours in the interpreter", allow_module_level=True)

MEASURE = timing.time_in_turns


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Injected timings by candidate name; what is not listed takes 1 s."""
    seconds = {"ell onednn 2": 0.5}

    def fake(candidates, *_):
        return {name: [seconds.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    return seconds


def prune(layer, tile=(16, 16)):
    """Keep 0, 1 or 2 tiles in a row, at all taps, on diagonals, so that no larger tile explains the zeros."""
    N, C = layer.weight.shape[:2]
    live = torch.zeros(-(-N // tile[0]), -(-C // tile[1]))
    for row in range(len(live)):
        for i in range(row % 3):
            live[row, (row + i) % live.shape[1]] = 1
    mask = live.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[:N, :C]
    layer.weight.data.mul_(mask.view(N, C, *[1] * (layer.weight.dim() - 2)))
    return layer


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.expand, self.conv = prune(nn.Conv2d(32, 64, 1)), prune(nn.Conv2d(64, 32, 3, 2, 1))
        self.depthwise, self.head = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.expand(F.relu(self.norm(self.stem(x)))))
        return self.head(self.depthwise(F.relu(self.conv(x))).mean((2, 3)))


def mlp():
    return nn.Sequential(prune(nn.Linear(48, 64)), nn.GELU(), prune(nn.Linear(64, 48)), nn.GELU(), nn.Linear(48, 5))


def encoder():
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    for layer in model.layers:
        prune(layer.linear1), prune(layer.linear2)
    return model


MODELS = [
    pytest.param(mlp, (6, 48), id="mlp"),
    pytest.param(CNN, (2, 3, 8, 8), id="cnn"),
    pytest.param(encoder, (2, 7, 32), id="encoder"),
]


@pytest.mark.parametrize("make, shape", MODELS)
@pytest.mark.parametrize("backend", ["packed", "compact", "ell onednn 1", "ell bmm 1", "bsr"])
def test_outputs_stay(make, shape, backend, measured):
    measured.update({backend: 0.1})
    model, x = make().eval(), torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        report = compress_(model, x)
        assert_close("eval", model(x), expected, x.dtype)
        if isinstance(model, nn.TransformerEncoder):
            assert_close("train", model.train()(x), expected, x.dtype)
    assert_close("with gradients", model.eval()(x), expected, x.dtype)
    assert backend.split()[0] in {row.choice for row in report.rows}


def test_padded_sequences_agree():
    model, x = encoder().eval(), torch.randn(2, 7, 32)
    padding = torch.arange(7).expand(2, 7) >= torch.tensor([[7], [4]])
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)[~padding]
        compress_(model, {"src": x, "src_key_padding_mask": padding})
        assert_close("y", model(x, src_key_padding_mask=padding)[~padding], expected, x.dtype)


def test_a_layer_that_stays_dense_stays_plain(measured):
    measured.clear()
    model = mlp()
    before = list(model)
    report = compress_(model, torch.randn(6, 48))
    assert list(model) == before
    assert {row.choice for row in report.rows} == {"dense"}
    assert report.totals["pruned_on_sparse"] == 0


def test_dense_baseline_uses_no_zeros(measured):
    measured.update({"packed": 0.5})
    model = mlp()
    report = compress_(model, torch.randn(6, 48), backends=DENSE)
    assert {row.choice for row in report.rows} == {"packed"}


def test_size_keeps_sparse_storage(measured):
    measured.clear()
    model, x = mlp(), torch.randn(6, 48)
    expected = model(x)
    report = compress_(model, x, policy="size")
    assert [row.sparse for row in report.rows] == [True, True, False]
    assert_close("y", model(x), expected, x.dtype)


def test_compressing_again_chooses_again(measured):
    model, x = mlp(), torch.randn(6, 48)
    expected = model(x)
    compress_(model, x)
    assert isinstance(model[0].format, ELL)
    measured.update({"bsr": 0.1})
    compress_(model, x)
    assert type(model[0].format) is BSR
    assert_close("y", model(x), expected, x.dtype)


def test_compressed_layers_train():
    model, x = mlp(), torch.randn(6, 48)
    compress_(model, x)
    live = model[0].weight != 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert not model[0].weight[~live].any()
        assert_close("y", model(x), copy.deepcopy(model)(x), x.dtype)


def test_tied_weights_stay_tied():
    model = mlp()
    model.append(nn.Linear(5, 48)).append(nn.Linear(48, 64))
    model[6].weight = model[0].weight
    shared = nn.Sequential(model, nn.Linear(64, 48), model)
    x = torch.randn(6, 48)
    expected = shared(x)
    report = compress_(shared, x)
    assert model[0].format is model[6].format and model[0].bias is not model[6].bias
    assert shared[0] is shared[2]
    assert report.rows[0].shared == ("0.6",)
    assert len(report.rows) == 5
    assert_close("y", shared(x), expected, x.dtype)


def test_a_weight_shared_with_an_embedding_stays_dense(caplog):
    model = nn.Sequential(nn.Embedding(64, 48), prune(nn.Linear(48, 64)))
    model[1].weight = nn.Parameter(prune(nn.Linear(48, 64)).weight.data)
    model[0].weight = model[1].weight
    assert not compress_(model, torch.tensor([1, 2])).rows
    assert type(model[1]) is nn.Linear and "users of several kinds" in caplog.text


class Siamese(nn.Module):
    """Two convolutions with one weight; the second has a geometry of its own."""

    def __init__(self, **geometry):
        super().__init__()
        self.a, self.b = prune(nn.Conv2d(32, 32, 3, padding=1)), nn.Conv2d(32, 32, 3, **geometry)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.a(x), self.b(x)


@pytest.mark.parametrize("backend", ["packed", "compact", "ell", "jit", "bsr"])
def test_a_weight_may_be_shared_by_two_geometries(backend):
    model, x = Siamese(padding=2, dilation=2, stride=2).eval(), torch.randn(2, 32, 9, 9)
    model.a.weight.data[:16] = 0  # so that compact has something to leave out
    with torch.no_grad():
        expected = model(x)
        report = compress_(model, x, backends=("dense", backend), policy="size")
        for _ in range(2):
            for got, want in zip(model(x), expected, strict=True):
                assert_close("y", got, want, x.dtype)
    assert report.rows[0].shared == ("b",)


def test_everybody_who_shares_a_weight_must_have_a_sparse_form():
    model, x = Siamese(padding=1, padding_mode="circular"), torch.randn(2, 32, 9, 9)
    expected = model(x)
    report = compress_(model, x, policy="size")
    assert report.rows[0].choice == "dense" and type(model.a) is type(model.b) is nn.Conv2d
    assert_close("y", model(x)[1], expected[1], x.dtype)


def test_layers_that_are_not_called_are_left():
    model = nn.ModuleDict({"a": prune(nn.Linear(32, 32)), "b": prune(nn.Linear(32, 32))})
    model.forward = lambda x: model["a"](x)
    rows = {row.name: row for row in compress_(model, torch.randn(2, 32)).rows}
    assert type(model["b"]) is nn.Linear and "not called" in rows["b"].note and rows["b"].ms is None


def tiled(seed, keep=0.5, rows=256, columns=256, tile=16):
    """A layer that keeps equally many tiles of each row, at places of its own."""
    places = torch.rand(rows // tile, columns // tile, generator=torch.Generator().manual_seed(seed)).argsort(1)
    layer = nn.Linear(columns, rows)
    live = (places < keep * columns // tile).repeat_interleave(tile, 0).repeat_interleave(tile, 1)
    layer.weight.data.mul_(live)
    return layer


@pytest.fixture
def compared(measured, monkeypatch):
    """The layers that are measured, each with the labels of its candidates."""
    measured["ell onednn 1"] = 0.5
    seen, fake = [], timing.time_in_turns

    def count(candidates, *rest):
        if "chosen" not in candidates:
            seen.append(list(candidates))
        return fake(candidates, *rest)

    monkeypatch.setattr(timing, "time_in_turns", count)
    return seen


def test_layers_that_are_alike_are_measured_once(compared):
    model, x = nn.Sequential(tiled(0), tiled(1), tiled(2)), torch.randn(6, 256)
    with torch.no_grad():
        expected = model(x)
        rows = compress_(model, x).rows
        assert_close("y", model(x), expected, x.dtype)
    assert len(compared) == 1 and [row.note for row in rows] == ["", "measured as 0", "measured as 0"]
    assert {type(layer.format) for layer in model} == {ELL} and len({row.ms for row in rows}) == 1
    assert len({id(layer.format) for layer in model}) == 3  # each has its own weights


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: tiled(1, keep=0.25), id="density"),
        pytest.param(lambda: tiled(1, tile=32), id="tile"),
        pytest.param(lambda: prune(nn.Linear(256, 256)), id="rows of other lengths"),
        pytest.param(lambda: nn.Linear(256, 256), id="no zeros"),
        pytest.param(lambda: without_bias(tiled(1)), id="bias"),
        pytest.param(lambda: tiled(1, rows=512), id="shape"),
    ],
)
def test_what_differs_is_measured(other, compared):
    model, x = nn.Sequential(tiled(0), other()), torch.randn(6, 256)
    rows = compress_(model, x).rows
    assert len(compared) == 2 and not any("measured as" in row.note for row in rows)


def without_bias(layer):
    layer.bias = None
    return layer


def test_rows_of_other_lengths_are_not_alike_at_equal_density():
    even = tiled(0, keep=0.5)
    uneven = tiled(0, keep=0.5)
    uneven.weight.data[:128] = torch.randn(128, 256)
    uneven.weight.data[128:] = 0
    uneven.weight.data[128:144, :16] = 1.0
    x = torch.randn(6, 256)
    likes = [likeness(layer, zeros_of(layer, Block(16, 16)), x) for layer in (even, uneven)]
    assert likes[0].density == pytest.approx(likes[1].density, rel=0.02)
    assert likes[0].covers(likes[0]) and not likes[0].covers(likes[1])


@pytest.mark.parametrize("more", [1, -1], ids=["longest row", "shortest row"])
def test_one_row_of_another_length_is_not_alike(more):
    """All the other rows, and the columns, are as they were."""
    layers = [nn.Linear(256, 256), nn.Linear(256, 256)]
    for layer in layers:
        layer.weight.data[:128, :128] = layer.weight.data[128:, 128:] = 0
    if more > 0:
        layers[1].weight.data[:16, 112:128] = 1
    else:
        layers[1].weight.data[:16, 128:144] = 0
    likes = [likeness(layer, zeros_of(layer, Block(16, 16)), torch.randn(6, 256)) for layer in layers]
    assert likes[0].density == pytest.approx(likes[1].density, rel=0.02) and not likes[0].covers(likes[1])


def test_inputs_of_other_shapes_are_not_alike():
    layer = tiled(0)
    zeros = zeros_of(layer, None)
    likes = [likeness(layer, zeros, x) for x in (torch.randn(6, 256), torch.randn(7, 256), torch.randn(256, 6).T)]
    assert [likes[0].covers(like) for like in likes] == [True, False, False]


@pytest.mark.parametrize("seconds, count", [(0.85, 1), (0.95, 2), (1.05, 2), (1.2, 1)])
def test_a_close_choice_is_not_carried_over(seconds, count, compared, measured):
    measured.update({"ell onednn 1": seconds, "ell bmm 1": 2.0})
    compress_(nn.Sequential(tiled(0), tiled(1)), torch.randn(6, 256), backends=("dense", "ell"))
    assert len(compared) == count


def unstructured(density, rows=64, columns=64):
    layer = nn.Linear(columns, rows)
    layer.weight.data.mul_(torch.rand(rows, columns) < density)
    return layer


def test_single_weights_are_a_candidate_where_zeros_have_no_tile(measured, tmp_path):
    measured.update({"csr": 0.1})
    model, x = nn.Sequential(unstructured(0.05), unstructured(0.3), prune(nn.Linear(64, 64))), torch.randn(6, 64)
    with torch.no_grad():
        expected = model(x)
        report = compress_(model, x)
        assert [row.choice for row in report.rows] == ["csr", "dense", "ell"]
        assert_close("y", model(x), expected, x.dtype)
        save(model, tmp_path, report)
        fresh = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
        assert load(fresh, tmp_path) == report and type(fresh[0].format) is CSR
        assert_close("loaded", fresh(x), expected, x.dtype)


def test_a_wrong_candidate_is_dropped(measured, monkeypatch):
    measured.update({"compact": 0.1})
    monkeypatch.setattr(Compact, "linear", lambda self, x, bias=None: x.new_zeros(len(x), self.shape[0]))
    report = compress_(nn.Sequential(prune(nn.Linear(48, 64))), torch.randn(6, 48))
    assert report.rows[0].choice == "ell" and report.rows[0].note == "output differs: compact"


def test_training_mode_and_hooks_survive():
    model = mlp().train()
    model[1].eval()
    compress_(model, torch.randn(6, 48))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert not model[4]._forward_pre_hooks


def test_tile_is_read_off_the_zeros():
    for tile in [(64, 64), (32, 32), (128, 8), (16, 16)]:
        weight = prune(nn.Linear(256, 256), tile).weight.detach()
        weight[-1, -1] = 0
        assert explaining_tile(weight, 1) == tile
    conv = prune(nn.Conv2d(64, 64, 3), (32, 16)).weight.detach()
    assert explaining_tile(conv.permute(0, 2, 3, 1).flatten(1), 9) == (32, 16)
    assert explaining_tile(torch.randn(64, 64), 1) is None
    assert explaining_tile(torch.randn(64, 64) * (torch.rand(64, 64) > 0.5), 1) is None


def test_pattern_tells_the_tile():
    model = nn.Sequential(prune(nn.Linear(64, 64), (32, 32)))
    assert compress_(copy.deepcopy(model), torch.randn(4, 64), Block(16, 8)).rows[0].tile == (16, 8)
    assert compress_(model, torch.randn(4, 64), NM(2, 4)).rows[0].tile is None


def test_report_prints_and_round_trips():
    report = compress_(mlp(), torch.randn(6, 48))
    assert type(report).from_dict(report.to_dict()) == report
    lines = str(report).splitlines()
    assert (
        lines[1].split()[:4] == ["layer", "shape", "kept", "tile"]
        and lines[-2].startswith("total")
        and "MACs" in lines[-1]
    )
    assert "ell onednn 2" in lines[2] and "2.00x" in lines[2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: compress_(nn.DataParallel(mlp()), torch.randn(6, 48)), "got an nn.DataParallel, which copies it"),
        (lambda: compress_(nn.Linear(8, 8), torch.randn(6, 8)), "put it into nn.Sequential"),
        (lambda: compress_(mlp(), torch.randn(6, 48), policy="fast"), "policy must be"),
        (lambda: compress_(mlp(), torch.randn(6, 48), backends=("mkl",)), "backends must be out of"),
        (lambda: compress_(masked(), torch.randn(6, 48)), "unmask_"),
        (lambda: compress_(mlp(), torch.randn(6, 48), cuda_graph=True), "needs a model on a CUDA device"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def masked():
    model = mlp()
    mask_(model, Block(16, 16))
    return model


# the rule of the choice


def test_sparse_must_win_by_more_than_the_spread():
    steady, noisy = [1.0] * 8, [0.5, 1.2, 0.6, 1.1, 0.9, 0.7, 1.0, 0.8]
    assert choose({"dense": steady, "ell": [0.95] * 8}, DENSE).name == "ell"
    assert choose({"dense": steady, "ell": noisy}, DENSE).name == "dense"
    assert choose({"dense": steady, "ell": [1.01] * 8}, DENSE).name == "dense"


def test_noise_does_not_hide_a_large_win():
    """A tenth of the time, give or take as much: the ratios spread by all of their median, and by a tenth of dense."""
    times = {"dense": [1.0] * 8, "ell": [0.05, 0.15, 0.1, 0.1, 0.05, 0.15, 0.1, 0.1]}
    choice = choose(times, DENSE)
    assert choice.name == "ell" and choice.spread > 0.5


def test_ratios_are_of_pairs():
    drift = [1.0, 2.0, 4.0, 8.0]  # a machine that gets slower: the pairs still agree
    choice = choose({"dense": drift, "ell": [0.9 * t for t in drift]}, DENSE)
    assert (choice.name, choice.ratio, choice.spread) == ("ell", pytest.approx(0.9), pytest.approx(0))


def test_of_equals_the_first_wins():
    """The order of a set, which changes from process to process, decides nothing."""
    names = [f"sparse {i}" for i in range(40)]
    assert choose(dict.fromkeys(["dense", *names], [1.0] * 4), DENSE, "size").name == "sparse 0"
    assert settle(dict.fromkeys(["chosen", *names], [1.0] * 4) | {"chosen": [2.0] * 4}) == "sparse 0"


def test_sparse_is_held_against_the_best_dense():
    times = {"dense": [1.0] * 4, "packed": [0.5] * 4, "ell": [0.6] * 4}
    assert choose(times, DENSE) == Choice("packed", "packed", 1.0, 0.0)
    assert choose({**times, "ell": [0.4] * 4}, DENSE).baseline == "packed"


def test_the_dense_ones_go_by_their_median():
    unsteady = {"dense": [1.0] * 4, "packed": [0.99, 1.2, 0.8, 0.9], "ell": [0.97] * 4}
    assert choose(unsteady, DENSE).name == choose(unsteady, DENSE).baseline == "packed"
    assert choose({"dense": [1.0] * 4, "packed": [0.995] * 4}, DENSE).name == "dense"


def test_a_choice_holds_when_its_ratio_moves_by_two_percent():
    for ratio in (0.90, 0.97, 0.985, 0.995, 1.0, 1.01):
        choice = choose({"dense": [1.0] * 4, "ell": [ratio] * 4}, DENSE)
        assert (choice.name == "ell") == (ratio < 0.98)
        assert choice.ratio + 0.02 <= 1.02


def test_the_fastest_winner_is_taken_and_size_takes_a_loser():
    times = {"dense": [1.0] * 4, "bsr": [0.8] * 4, "ell": [0.7] * 4}
    assert choose(times, DENSE).name == "ell"
    losing = {"dense": [1.0] * 4, "bsr": [3.0] * 4, "ell": [2.0] * 4}
    assert choose(losing, DENSE).name == "dense"
    assert choose(losing, DENSE, "size").name == "ell"


def test_measure_gives_finalists_equal_rounds():
    calls = {name: (lambda: None) for name in ("dense", "packed", "a", "b", "c")}
    times = MEASURE(calls, DENSE, torch.device("cpu"), 0.0)
    assert {"dense", "packed"} <= times.keys() and len(times) == 4
    assert len({len(rounds) for rounds in times.values()}) == 1


class Device:
    """A GPU that is only imagined: calls cost the host and the device, replays of a graph the device and one launch."""

    LAUNCH_S = 10e-6

    def __init__(self, host_s: dict[str, float], device_s: dict[str, float]):
        self.host_s, self.device_s = host_s, device_s
        self.now, self.busy, self.capturing = 0.0, 0.0, None
        self.graphs: list[list[str]] = []  # calls of each graph
        self.replays: list[int] = []

    def call(self, name):
        if self.capturing is not None:
            self.capturing.append(name)
            return
        self.now += self.host_s[name]
        self.busy = max(self.busy, self.now) + self.device_s[name]

    def capture(self, run):
        self.capturing = []
        run()
        held, self.capturing = self.capturing, None
        self.graphs.append(held)
        self.replays.append(0)
        graph = len(self.graphs) - 1

        def replay():
            self.replays[graph] += 1
            self.busy = max(self.busy, self.now) + self.LAUNCH_S + sum(self.device_s[name] for name in held)

        return replay

    def timed(self, run, calls):
        begin = max(self.busy, self.now)
        run()
        seconds = (self.busy - begin) / calls
        return lambda: seconds

    def clock(self):
        return timing.Clock(self.timed, self.capture)


def test_in_a_graph_the_host_does_not_count():
    """Two candidates whose kernels take as long, one with 500 us of host: the same graphs, the same times."""
    device = Device({"dense": 20e-6, "sparse": 500e-6}, {"dense": 5e-6, "sparse": 5e-6})
    calls = {name: partial(device.call, name) for name in device.host_s}
    times = MEASURE(calls, DENSE, torch.device("cpu"), 0.0, clock=device.clock())
    assert times["sparse"] == pytest.approx(times["dense"])
    lengths = {name: [len(graph) for graph in device.graphs if name in graph] for name in calls}
    assert lengths["sparse"] == lengths["dense"] and lengths["sparse"][-1] >= 20
    assert times["sparse"][0] < 1.1 * device.device_s["sparse"]  # the launch of the graph hardly counts


def test_in_a_graph_the_faster_kernel_wins_whatever_its_host_costs():
    device = Device({"dense": 20e-6, "sparse": 500e-6}, {"dense": 9e-6, "sparse": 3e-6})
    calls = {name: partial(device.call, name) for name in device.host_s}
    choice = choose(MEASURE(calls, DENSE, torch.device("cpu"), 0.0, clock=device.clock()), DENSE)
    assert choice.name == "sparse" and choice.ratio == pytest.approx(1 / 3, rel=0.1)


def test_a_graph_is_as_long_as_a_sample_and_never_endless():
    for seconds, count in ((1e-3, 1), (150e-6, 1), (50e-6, 3), (0.0, timing.MOST_REPEATS)):
        device = Device({"a": 0.0}, {"a": seconds})
        device.LAUNCH_S = 0.0
        timing.sampling(partial(device.call, "a"), device.clock())
        assert len(device.graphs[-1]) == pytest.approx(count, abs=1)


def test_in_cuda_graphs_every_candidate_is_replayed():
    """Dense ones, too: what is free for one side is given to the other."""
    device = Device(dict.fromkeys(("dense", "packed", "a"), 1e-5), dict.fromkeys(("dense", "packed", "a"), 1e-3))
    calls = {name: partial(device.call, name) for name in device.host_s}
    MEASURE(calls, DENSE, torch.device("cpu"), 0.0, clock=device.clock())
    assert [set(graph) for graph in device.graphs] == [{"dense"}, {"packed"}, {"a"}]
    assert all(count >= 5 + timing.FULL.pairs for count in device.replays)


@pytest.mark.parametrize("seconds, before", [(1e-3, 4), (1e-2, 0)])
def test_a_sample_finds_in_the_cache_what_its_own_calls_leave_there(seconds, before):
    """Calls that are not timed come first, as many as it takes to read a cache full."""
    log = []
    clock = timing.Clock(lambda run, calls: run() or log.append("timed") or (lambda: seconds * calls))
    sample = timing.sampling(lambda: log.append("call"), clock)
    log.clear()
    assert sample()() == seconds
    assert log == ["call"] * before + ["call", "timed"]


@pytest.mark.parametrize("host_s", [5e-6, 500e-6])
def test_as_long_in_front_of_a_graph_whatever_the_host_costs(host_s):
    device = Device({"a": host_s}, {"a": 5e-6})
    sample = timing.sampling(partial(device.call, "a"), device.clock())
    before = device.busy
    sample()()
    assert device.busy - before == pytest.approx(timing.WARM_S + timing.SAMPLE_S, rel=0.1)


def test_what_a_cuda_graph_cannot_hold_is_left_out(monkeypatch, measured):
    def capture(run):
        run()
        if not isinstance(run.func, nn.Linear):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(timing, "capture", capture)
    layer = prune(nn.Linear(48, 64))
    settings = Settings(backends=("dense", "ell"), cuda_graph=True)
    found = select({"0": layer}, zeros_of(layer, None), torch.randn(6, 48), settings)
    assert found.chosen.format is None and "not in a CUDA graph: ell" in found.chosen.report.note


@pytest.mark.gpu
def test_chosen_in_cuda_graphs(monkeypatch):
    monkeypatch.setattr(timing, "time_in_turns", MEASURE)
    model, x = mlp().cuda(), torch.randn(6, 48, device="cuda")
    expected = model(x)
    report = compress_(model, x, seconds=0.0, policy="size", cuda_graph=True)
    assert report.settings["cuda_graph"] and report.rows[0].sparse and report.rows[0].ms > 0
    assert_close("y", model(x), expected, x.dtype)


def test_the_whole_model_is_held_against_the_dense_ones(monkeypatch, measured):
    """Which share the tensors that they do not pack."""
    measured["packed"] = 0.9
    model, seen = mlp(), {}

    def fake(candidates, *rest):
        if "chosen" in candidates:
            seen.update({kind: call.args[0] for kind, call in candidates.items()})
        return {name: [measured.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    bias = model[0].bias
    compress_(model, torch.randn(6, 48))
    assert {kind: stored(net) for kind, net in seen.items()} == {
        "chosen": ["ELL", "ELL", "Packed"],
        "rival": ["Packed"] * 3,
        "plain": ["Linear"] * 3,
    }
    assert stored(model) == stored(seen["chosen"]) and {id(net[0].bias) for net in seen.values()} == {id(bias)}


def stored(model):
    """How the three layers of the MLP are stored."""
    return [type(getattr(layer, "format", layer)).__name__ for layer in model[::2]]


@pytest.mark.parametrize("kind, found, best", [("plain", "Linear", 0.5), ("rival", "Packed", 0.8)])
def test_what_loses_in_the_whole_model_is_taken_back(kind, found, best, measured):
    measured.update({"packed": 0.9, "chosen": 1.0, "plain": 2.0, "rival": 2.0, kind: best})
    model, x = mlp().eval(), torch.randn(6, 48)
    expected = model(x)
    report = compress_(model, x)
    assert stored(model) == [found] * 3 and report.totals["pruned_on_sparse"] == 0
    assert [row.choice for row in report.rows] == ["dense" if kind == "plain" else "packed"] * 3
    assert report.rows[0].note == "ell loses in the whole model"
    assert report.rows[0].ms == (1000.0 if kind == "plain" else 900.0) and report.rows[0].dense_ms == 900.0
    assert report.before.ms == report.after.ms == 1e3 * best
    assert_close("y", model(x), expected, x.dtype)


def test_size_keeps_what_loses_in_the_whole_model(measured):
    measured["chosen"] = 3.0
    report = compress_(mlp(), torch.randn(6, 48), policy="size")
    assert [row.sparse for row in report.rows] == [True, True, False]
    assert (report.before.ms, report.after.ms) == (1e3, 3e3)


def test_a_whole_model_that_is_dense_is_held_against_the_plain_one(measured):
    measured.update({"packed": 0.9, "chosen": 1.0, "plain": 0.5})
    model = mlp()
    report = compress_(model, torch.randn(6, 48), backends=DENSE)
    assert stored(model) == ["Linear"] * 3 and report.after.ms == report.before.ms == 500.0
    measured["plain"] = 2.0
    report = compress_(model, torch.randn(6, 48), backends=DENSE)
    assert stored(model) == ["Packed"] * 3 and report.after.ms == report.before.ms == 1000.0


def as_it_is(model):
    """Everything that a model is made of: modules, Parameters and buffers, by object and by memory."""
    modules = [(name, id(module), module.training) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return modules, [(name, id(t), t.data_ptr(), t.stride()) for name, t in tensors]


def test_nothing_ends_slower_than_it_came(measured):
    """Folded BatchNorms and channels_last are taken back, and with them what they replaced."""
    measured.update({"chosen": 1.0, "plain": 0.95, "original": 0.9})
    model, x = CNN().eval(), torch.randn(2, 3, 8, 8)
    expected, before, values = model(x), as_it_is(model), copy.deepcopy(model.state_dict())
    report = compress_(model, x)
    assert as_it_is(model) == before and all(torch.equal(t, values[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(x), expected)
    assert {row.choice for row in report.rows} == {"dense"} and "the model as it came is faster" in report.rows[0].note
    assert report.after.ms == report.before.ms == 900.0


@pytest.mark.parametrize("original, folded", [(0.9, False), (0.995, True), (1.1, True)])
def test_folding_is_a_candidate(original, folded, measured):
    measured.clear()
    measured["original"] = original
    model = CNN().eval()
    compress_(model, torch.randn(2, 3, 8, 8), backends=DENSE)
    assert isinstance(model.norm, nn.BatchNorm2d) != folded
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last) == folded


def test_winners_are_held_against_the_model_as_it_came(measured, monkeypatch):
    """Which is timed with the tensors that it came with, in one comparison with the others."""
    model, seen = CNN().eval(), {}
    weight, gamma = model.stem.weight.clone(), model.norm.weight

    def fake(candidates, *rest):
        if "chosen" in candidates:
            seen.update({kind: call.args[0] for kind, call in candidates.items()})
        return {name: [measured.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    compress_(model, torch.randn(2, 3, 8, 8))
    assert list(seen) == ["chosen", "rival", "original"] and isinstance(seen["original"].norm, nn.BatchNorm2d)
    assert torch.equal(seen["original"].stem.weight, weight) and seen["original"].stem.weight.is_contiguous()
    assert seen["original"].norm.weight.data_ptr() == gamma.data_ptr()  # no copy of what is not replaced
    assert not torch.equal(model.stem.weight, weight) and isinstance(model.expand.format, ELL)


def test_a_model_that_came_sparse_may_stay_so(measured):
    model, x = mlp(), torch.randn(6, 48)
    compress_(model, x)
    assert isinstance(model[0].format, ELL)
    before = as_it_is(model)
    measured.update({"packed": 0.1, "original": 0.05})
    report = compress_(model, x)
    assert as_it_is(model) == before
    assert [row.choice for row in report.rows] == ["ell", "ell", "dense"] and report.rows[0].ms is None
    assert report.before.ms == 1000.0 and report.after.ms == 50.0 and "the model as it came" in str(report)
    report = compress_(model, x, backends=DENSE)  # asked for dense layers: that it came sparse is no way out
    assert {row.choice for row in report.rows} == {"packed"}


def test_equal_whole_models_keep_the_winners():
    chosen = [1.0, 2.0, 4.0, 8.0]
    for ratio, kept in ((0.9, "plain"), (0.995, "chosen"), (1.1, "chosen")):
        plain = [ratio * seconds for seconds in chosen]
        assert settle({"chosen": chosen, "plain": plain}) == kept
        assert settle({"chosen": chosen, "plain": plain}, "size") == "chosen"
        assert settle({"chosen": chosen, "plain": plain, "rival": [0.5] * 4}) == "rival"
    assert settle({"chosen": chosen}) == "chosen"


@pytest.mark.parametrize("made", [Choice, Settings, Outcome, Selected, Subject, Likeness, Measured])
def test_what_is_handed_around_is_never_changed(made):
    assert made.__dataclass_params__.frozen


def test_settings_survive_a_file():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for given in ((None, None, "speed"), (Block(16, 8), ("dense", "bsr"), "size"), (NM(2, 4), ("ell",), "speed")):
        arguments = Settings.arguments(json.loads(json.dumps(Settings(*given).to_dict())), cpu)
        assert tuple(arguments.values()) == (*given, False)
    on_a_gpu = Settings(cuda_graph=True).to_dict()
    assert [Settings.arguments(on_a_gpu, device)["cuda_graph"] for device in (cpu, gpu)] == [False, True]
    assert Settings.arguments({}, gpu) == {"pattern": None, "backends": None, "policy": "speed", "cuda_graph": False}


def test_really_measured(monkeypatch):
    monkeypatch.setattr(timing, "time_in_turns", MEASURE)
    model = nn.Sequential(SparseLinear(64, 64, Block(32, 32), 0.25), nn.ReLU())
    model[0].format.values.data.normal_()
    x = torch.randn(8, 64)
    expected = model(x)
    row = compress_(model, x, seconds=0.0, backends=("dense", "packed", "ell")).rows[0]
    assert row.ms > 0 and row.dense_ms > 0 and row.kept == 0.25
    assert_close("y", model(x), expected, x.dtype)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_unions_of_rows_of_tiles_are_tried_on_a_gpu_only(device):
    layer = nn.Linear(128, 256, bias=False)
    layer.weight.data *= (torch.rand(16, 8) < 0.5).repeat_interleave(16, 0).repeat_interleave(16, 1)
    layer = layer.to(device)
    labels = candidates([layer], zeros_of(layer, Block(16, 16)), ("bsr",))
    assert list(labels)[:2] == ["dense", "bsr"]
    assert list(labels)[2:] == ([] if device == "cpu" else ["bsr union 2", "bsr union 4", "bsr union 8"])


def test_compare_of_a_model_with_itself(monkeypatch):
    monkeypatch.setattr(timing, "time_in_turns", MEASURE)
    model = nn.Linear(8, 8)
    found = compare(model, model, torch.zeros(1, 8), seconds=0.0)
    assert found.dense_ms > 0 and found.sparse_ms > 0 and found.pairs == timing.FULL.pairs and found.spread >= 0


@pytest.mark.parametrize("use", [compress_, lambda model, x: compare(model, model, x)], ids=["compress", "compare"])
def test_what_can_be_neither_run_nor_placed(use, monkeypatch):
    monkeypatch.setattr(timing, "time_in_turns", MEASURE)
    with pytest.raises(ValueError, match="must have parameters, got none in Sequential"):
        use(nn.Sequential(nn.ReLU()), torch.zeros(1, 8))
    with pytest.raises(ValueError, match="example_input must be a tensor, a tuple or a dict of arguments, got None"):
        use(nn.Sequential(nn.Linear(8, 8)), None)


def test_compare_goes_on_where_a_cuda_graph_cannot(monkeypatch, caplog):
    def measure(calls, dense, device, seconds, cuda_graph, *_):
        if cuda_graph:
            raise RuntimeError("operation not permitted when stream is capturing")
        return {"dense": [4.0] * 4, "sparse": [2.0] * 4}

    monkeypatch.setattr(timing, "time_in_turns", measure)
    found = compare(nn.Linear(8, 8), nn.Linear(8, 8), torch.zeros(1, 8), cuda_graph=True)
    assert found.speedup == 2.0 and found.steady and "without a CUDA graph" in caplog.text


def test_a_bar_shows_the_layers_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    compress_(copy.deepcopy(model), torch.randn(4, 64), seconds=0)
    assert "compress_" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr", Terminal())
    compress_(model, torch.randn(4, 64), seconds=0)
    assert "compress_" in sys.stderr.getvalue() and "/2" in sys.stderr.getvalue()
