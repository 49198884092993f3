"""A pattern that the package does not know: defined here, registered by one line, taken through everything."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from smart_kernels import SparseConv2d, SparseLinear, WeightShape, compress_, load, mask_, masked_layers, parse, save
from smart_kernels.convert.measure import timing
from smart_kernels.formats import BSR, FORMATS
from smart_kernels.patterns import PATTERNS, Pattern, forms
from smart_train import SmartPruner
from smart_train.cli import main
from smart_train.run import prune
from tests.util import assert_close


@dataclass(frozen=True)
class Diagonal(Pattern):
    """Diagonals of square tiles that begin anew at the right edge: every block row keeps the same number of tiles."""

    size: int
    name = "diagonal"
    form = "diagonal:SIZE"
    example = (16,)

    @classmethod
    def parse(cls, parts):
        if len(parts) != 1:
            raise cls.unreadable()
        return cls(int(parts[0]))

    def tile(self, shape):
        return self.size, self.size

    def scores_shape(self, shape):
        return 1, super().scores_shape(shape)[1]

    def tile_values(self, values, shape):
        rows, cols = super().scores_shape(shape)
        row, col = torch.arange(rows)[:, None], torch.arange(cols)
        per_tap = cols // shape.taps
        return values[0, (col // per_tap * per_tap + (col - row) % per_tap).to(values.device)]

    def tile_sums(self, per_tile, shape):
        diagonal = self.tile_values(torch.arange(per_tile.shape[1])[None], shape).to(per_tile.device)
        return per_tile.new_zeros(1, per_tile.shape[1]).index_add_(1, diagonal.flatten(), per_tile.reshape(1, -1))

    def __str__(self):
        return f"diagonal:{self.size}"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(PATTERNS, Diagonal.name, Diagonal)


@pytest.fixture
def sparse_wins(monkeypatch):
    def fake(candidates, *_):
        return {name: [0.5 if name == "bsr" else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)
        self.linear, self.small, self.head = nn.Linear(48, 64), nn.Linear(64, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv(torch.relu(self.stem(x))).relu().mean((2, 3))
        return self.head(self.small(torch.relu(self.linear(x))).relu())


def diagonals(layer):
    """(cols,) live or not: whether all tiles of a diagonal, of which there are four or two in a tap, say the same."""
    shape = WeightShape(len(layer.weight), layer.weight[0, 0].numel(), layer.weight.shape[1])
    weight = layer.weight.detach().flatten(2).transpose(1, 2) if layer.weight.dim() > 2 else layer.weight[:, None]
    live = Diagonal(16).importance(weight) > 0
    return live[0], Diagonal(16).expand(live.float(), shape).bool()


def test_its_text_is_read_and_written():
    assert parse("diagonal:16") == Diagonal(16) and str(Diagonal(16)) == "diagonal:16"
    assert forms().endswith("or diagonal:SIZE")
    with pytest.raises(ValueError, match="pattern 'diagonal:1:2': must be written diagonal:SIZE"):
        parse("diagonal:1:2")


def test_a_name_that_is_not_registered_is_told_which_are(monkeypatch):
    monkeypatch.delitem(PATTERNS, Diagonal.name)
    with pytest.raises(ValueError, match=r"pattern must be block:.*vnm:V:N:M, got 'diagonal:16'"):
        parse("diagonal:16")


@pytest.mark.parametrize("taps", [1, 9])
def test_its_answers_are_consistent(taps):
    shape = WeightShape(50, taps, 40)
    pattern = Diagonal(16)
    owner = pattern.expand(torch.arange(pattern.cost(shape).numel()).view(pattern.scores_shape(shape)), shape)
    assert owner.flatten().bincount().view_as(pattern.cost(shape)).equal(pattern.cost(shape))
    weight = torch.randn(shape)
    sums = torch.zeros(owner.max() + 1).index_add_(0, owner.flatten(), weight.abs().flatten())
    torch.testing.assert_close(pattern.importance(weight), sums.view_as(pattern.cost(shape)) / pattern.cost(shape))


def test_it_masks_prunes_compresses_saves_and_loads(tmp_path, sparse_wins):
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 6, 6)
    pruner = SmartPruner(net, Diagonal(16), 0.5, search_steps=4)
    assert list(masked_layers(net)) == ["conv", "linear"]  # not the stem, what has no whole tile, and the head
    optimizer = torch.optim.Adam([{"params": pruner.weights()}, pruner.param_group()], lr=1e-2)
    for _ in range(6):
        pruner.step()
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    report = pruner.finalize()
    assert report["kept_sparsity"] >= 0.5
    for layer in (net.conv, net.linear):
        live, mask = diagonals(layer)
        weight = layer.weight.flatten(2).transpose(1, 2) if layer.weight.dim() > 2 else layer.weight[:, None]
        assert 0 < live.sum() < len(live) and torch.equal(weight != 0, mask)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        chosen = compress_(net, x, Diagonal(16))
        assert_close("compressed", net(x), expected, x.dtype)
        assert isinstance(net.conv, SparseConv2d) and type(net.linear.format) is BSR
        assert net.linear.format.tile == (16, 16) and chosen.settings["pattern"] == "diagonal:16"
        save(net, tmp_path, chosen)
        fresh = Net().eval()
        assert load(fresh, tmp_path) == chosen
        assert_close("loaded", fresh(x), expected, x.dtype)
        assert load(Net().eval(), tmp_path, x, rechoose=True).settings["pattern"] == "diagonal:16"


def test_it_is_taken_wherever_a_pattern_is():
    layer = nn.Linear(64, 48)
    sparse = SparseLinear.from_dense(layer, Diagonal(16), 0.5)
    assert type(sparse.format) is BSR and (sparse.weight == 0).float().mean() == 0.5
    assert isinstance(mask_(nn.Sequential(layer, nn.Linear(48, 4)), Diagonal(16))["0"].scores, nn.Parameter)


def test_the_command_line_takes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    steps = ["--dense-steps", "10", "--search-steps", "10", "--finetune-steps", "5", "--batch", "32"]
    settings = ["--model", "vit-tiny", "--pattern", "diagonal:16", "--sparsity", "0.5", *steps]
    assert main(["prune", *settings, "--out", str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["recipe"]["pattern"] == "diagonal:16" and 0 < report["budget"]["kept"] <= report["budget"]["asked"]
    assert main(["run", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("folder", ["smart_kernels", "smart_train", "bench"])
def test_nobody_asks_which_pattern_or_format_something_is(folder):
    """Outside of their own folders: each answers for itself."""
    own = {"smart_kernels/patterns", "smart_kernels/formats"}
    kinds = {cls.__name__ for table in (PATTERNS, FORMATS) for cls in table.values()}
    root = Path(__file__).parents[1]
    for file in (root / folder).rglob("*.py"):
        if str(file.parent.relative_to(root)) in own:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                asked = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
                assert not asked & kinds, f"{file.relative_to(root)}:{node.lineno} asks for {asked & kinds}"
