"""A format that the package does not know: one class, registered by one line, chosen, saved and loaded."""

import json

import pytest
import torch
from torch import nn

from smart_kernels import compress_, load, save
from smart_kernels.convert.measure import timing
from smart_kernels.formats import FORMATS, Candidate, Format
from tests.util import assert_close


class Rows(Format):
    """The rows that are not dead."""

    name = "rows"
    saves = ("values", "live")

    def __init__(self, values, live, shape, taps=1):
        super().__init__(shape, taps)
        if values.shape != (int(live.sum()), shape[1]):
            raise ValueError(f"values must be the live rows, got {tuple(values.shape)}")
        self.values = nn.Parameter(values)
        self.register_buffer("live", live)

    @classmethod
    def from_dense(cls, weight, tile, *, taps=1, keep=None):
        live = (weight != 0).any(1)
        return cls(weight.detach()[live], live, weight.shape, taps)

    @classmethod
    def candidates(cls, zeros):
        if not (zeros.weight != 0).any(1).all():
            yield Candidate("rows", {})

    @classmethod
    def lacking(cls, device, dtype, **options):
        return "rows needs float32" if dtype != torch.float32 else None

    def to_dense(self):
        return self.values.new_zeros(self.shape).index_copy(0, self.live.nonzero()[:, 0], self.values)

    def linear(self, x, bias=None):
        return nn.functional.linear(x, self.to_dense(), bias)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FORMATS, Rows.name, Rows)

    def fake(candidates, *_):
        return {name: [0.5 if name == "rows" else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)


def model():
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    net[0].weight.data[torch.arange(0, 32, 3)] = 0
    return net.eval()


def test_it_is_chosen_saved_and_loaded(tmp_path):
    net, x = model(), torch.randn(4, 16)
    with torch.no_grad():
        expected = net(x)
        report = compress_(net, x)
        assert [row.choice for row in report.rows] == ["rows", "dense"] and report.rows[0].sparse
        assert_close("compressed", net(x), expected, x.dtype)
        save(net, tmp_path, report)
        fresh = model()
        assert load(fresh, tmp_path) == report and type(fresh[0].format) is Rows
        assert_close("loaded", fresh(x), expected, x.dtype)
    stored = json.loads((tmp_path / "config.json").read_text())["layers"]["0"]["stored"]
    assert stored == "rows"  # a bool per row is less than the indices of any other form


def test_it_is_one_of_the_backends():
    assert compress_(model(), torch.randn(4, 16), backends=("dense", "rows")).rows[0].choice == "rows"
    with pytest.raises(ValueError, match=r"backends must be out of .*'rows'"):
        compress_(model(), torch.randn(4, 16), backends=("columns",))


def test_the_report_says_what_it_lacks():
    report = compress_(model().double(), torch.randn(4, 16, dtype=torch.float64))
    assert report.absent == ("rows needs float32",)
