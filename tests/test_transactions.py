"""A verb that changes a model ends with the same outputs, or leaves the model exactly as it came."""

import inspect
import random
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn

from smart_kernels import Block, Channel, SparseLinear, compress_, fold_batchnorm_, load, mask_, save, unmask_
from smart_kernels.convert import masked_layers
from smart_kernels.convert.compress import compress as compressing
from smart_kernels.convert.measure import timing
from smart_kernels.convert.modules import Folded, Outputs, Snapshot, twin, whole_or_not_at_all
from smart_kernels.formats import Compact
from smart_kernels.nn import HardGate, SoftGate
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("runs whole models many times, which takes hours in the interpreter", allow_module_level=True)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Injected timings by candidate name; what is not listed takes 1 s."""
    seconds = {"compact": 0.5}

    def fake(candidates, *_):
        return {name: [seconds.get(name, 1.0)] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)
    return seconds


class Norm(nn.BatchNorm2d):
    """A subclass that computes the same."""


class Net(nn.Module):
    """Convolutions with BatchNorms, attention, layers that are shared, sparse, frozen, pruned by torch, in a list."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3), Norm(16)
        self.conv, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        encoder = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 1)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.again, self.head = self.a, nn.Linear(16, 8)
        self.listed = [self.a, self.conv]
        self.note = {"of": "the user"}

    def forward(self, x):
        x = self.norm2(self.conv(self.norm(self.stem(x)).relu())).relu()
        x = self.encoder(x.flatten(2).transpose(1, 2))
        return {"y": self.head(self.again(self.b(self.a(x)))), "rest": SimpleNamespace(x=x)}


def net():
    model = Net()
    for norm in (model.norm, model.norm2):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.data.uniform_(0.5, 2)
    for layer in (model.conv, model.a, model.encoder.layers[0].linear1):
        layer.weight.data[:8] = 0
    torch_prune.l1_unstructured(model.head, "weight", 0.5)
    model.a.register_forward_hook(lambda module, args, y: None)
    model.stem.requires_grad_(False)
    model.a.weight.grad = torch.ones_like(model.a.weight)
    model.eval()
    model.encoder.train()
    return model


def fresh():
    model = Net().eval()
    model.a.register_forward_hook(lambda module, args, y: None)
    return model


def example():
    return torch.randn(2, 3, 7, 7)


def everything(model):
    """All that a user can hold in hand: objects by identity, tensors by value."""
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        attributes = []
        for key, value in vars(module).items():
            if isinstance(value, dict):
                value = [(each, id(held)) for each, held in value.items()]
            attributes.append((key, sorted(map(str, value)) if isinstance(value, set) else value))
        found.append(
            (
                name,
                id(module),
                type(module),
                repr([(k, v if isinstance(v, list | str) else id(v)) for k, v in attributes]),
            )
        )
    tensors = {}
    for name, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        grad = None if t.grad is None else (id(t.grad), t.grad.tolist())
        tensors[name] = (id(t), t.stride(), t.dtype, t.requires_grad, t.tolist(), grad)
    return found, tensors, torch.backends.mha.get_fastpath_enabled()


class Halt(BaseException):
    """Comes at a chosen call, like a Ctrl-C."""


@contextmanager
def halting(at):
    """Raise at the call number ``at`` of a function of the package that converts models; count the calls."""
    count = SimpleNamespace(calls=0)

    def watch(frame, event, arg):
        code = frame.f_code
        ours = "smart_kernels/convert/" in code.co_filename or "smart_kernels/nn/" in code.co_filename
        if event == "call" and ours and not code.co_flags & inspect.CO_GENERATOR:
            count.calls += 1
            if count.calls == at:
                raise Halt

    sys.setprofile(watch)
    try:
        yield count
    finally:
        sys.setprofile(None)


def hardened(model, pattern=None):
    gates = {}
    for layer in mask_(model, pattern or Block(8, 8)).values():
        mask = (torch.rand_like(layer.scores) < 0.5).float()
        layer.gate = gates.setdefault(layer.scores, HardGate(mask))
    return model


def cnn():
    return nn.Sequential(nn.Conv2d(8, 16, 3), Norm(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))


def saved(directory):
    torch.manual_seed(1)
    model = net()
    save(model, directory, compress_(model, example()))


VERBS = {
    "mask_": (net, lambda model, path: mask_(model, Block(8, 8))),
    "mask_ channels": (cnn, lambda model, path: mask_(model, Channel(), example_input=torch.randn(1, 8, 5, 5))),
    "unmask_": (lambda: hardened(net()), lambda model, path: unmask_(model)),
    "unmask_ channels": (lambda: hardened(cnn(), Channel()), lambda model, path: unmask_(model)),
    "fold_batchnorm_": (net, lambda model, path: fold_batchnorm_(model, example())),
    "compress_": (net, lambda model, path: compress_(model, example())),
    "compress_ again": (lambda: compressed(net()), lambda model, path: compress_(model, example())),
    "load": (fresh, lambda model, path: load(model, path)),
    "load and choose": (fresh, lambda model, path: load(model, path, example(), rechoose=True)),
}


def compressed(model):
    compress_(model, example())
    return model


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("verb", VERBS)
def test_halted_anywhere_the_model_is_as_it_came(verb, part, tmp_path):
    make, change = VERBS[verb]
    if verb.startswith("load"):
        saved(tmp_path)
    torch.manual_seed(2)
    model = make()
    with halting(at=None) as count:
        change(model, tmp_path)
    torch.manual_seed(2)
    model = make()
    before = everything(model)
    with pytest.raises(Halt), halting(at=1 + int(count.calls * (part + 0.5) / 8)):
        change(model, tmp_path)
    assert everything(model) == before


@pytest.mark.parametrize("verb", VERBS)
def test_outputs_agree_and_modes_stay(verb, tmp_path):
    make, change = VERBS[verb]
    if verb.startswith("load"):
        saved(tmp_path)
    model = make()
    x = example() if isinstance(model, Net) else torch.randn(1, 8, 5, 5)
    if verb.startswith("load"):
        other = fresh()
        load(other, tmp_path)
        expected = Outputs(other, x)
    else:
        expected = Outputs(model, x)
    modes = {name: module.training for name, module in model.named_modules()}
    change(model, tmp_path)
    assert expected.unknown is None and expected.changed(model) is None
    now = {name: module.training for name, module in model.named_modules()}
    assert all(now[name] == modes[name] for name in modes if name in now)


def test_a_snapshot_gives_back_values_memory_gradients_and_flags():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model(torch.randn(3, 4)).sum().backward()
    before, data = everything(model), model[0].weight.data_ptr()
    with pytest.raises(ZeroDivisionError), whole_or_not_at_all(model) as snapshot:
        snapshot.keep(model[0].bias, None, model[1].running_mean)
        snapshot.keep(model[0].bias)
        model[0].bias.data.zero_(), model[1].running_mean.zero_()
        model[0].weight.data = torch.zeros(4, 4)
        model[0].weight.grad = None
        model.requires_grad_(False)
        model[1] = nn.Identity()
        _ = 1 / 0
    assert everything(model) == before and model[0].weight.data_ptr() == data


def test_parts_of_a_snapshot_can_be_put_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    snapshot = Snapshot(model)
    model[0].extra, model[1].extra = 1, 1
    snapshot.put_back([model[0]])
    assert not hasattr(model[0], "extra") and model[1].extra == 1


# the output of the whole model


class Twice(nn.Module):
    """The second call of the layer is none that compress_ measures."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
        self.a.weight.data[:16] = self.b.weight.data[:16] = 0

    def forward(self, x):
        return self.a(x), self.a(x[:3]), self.b(x)


def test_a_layer_that_changes_the_whole_model_is_taken_back(monkeypatch, measured):
    linear = Compact.linear

    def wrong_for_three_rows(self, x, bias=None):
        return linear(self, x, bias) + (len(x) == 3)

    monkeypatch.setattr(Compact, "linear", wrong_for_three_rows)
    model, x = Twice().eval(), torch.randn(8, 32)
    weight = model.a.weight
    expected = Outputs(model, x)
    report = compress_(model, x)
    assert [row.choice for row in report.rows] == ["dense", "compact"]
    assert "compact: the whole model gives a relative difference" in report.rows[0].note
    assert type(model.a) is nn.Linear and model.a.weight is weight and expected.changed(model) is None
    assert report.after.ms == 1e3


def test_a_fold_that_changes_the_model_is_undone(monkeypatch):
    monkeypatch.setattr(Folded, "forward", lambda self, input: input + 1)
    model, x = net(), example()
    report = compress_(model, x)
    assert isinstance(model.norm, Norm) and "with it folded, the model gives" in report.left["norm"]
    model = net()
    before = everything(model)
    with pytest.raises(ValueError, match="fold_batchnorm_ must not change the output, so the model stays as it was"):
        fold_batchnorm_(model, x)
    assert everything(model) == before


def test_what_nothing_explains_is_an_error_and_the_model_is_as_it_was(monkeypatch):
    prepare = compressing._prepare

    def spoiled(model, *rest):
        left = prepare(model, *rest)
        model.a.bias = nn.Parameter(model.a.bias + 1)
        return left

    monkeypatch.setattr(compressing, "_prepare", spoiled)
    model = net()
    before = everything(model)
    with pytest.raises(ValueError, match="compress_ must not change the output"):
        compress_(model, example())
    assert everything(model) == before


def test_a_mask_that_changes_the_output_is_undone(monkeypatch):
    from smart_kernels.nn import MaskedConv2d

    monkeypatch.setattr(MaskedConv2d, "forward", lambda self, input: self._conv_forward(input, self.raw_weight, None))
    model = cnn()
    before = everything(model)
    with pytest.raises(ValueError, match="mask_ must not change the output"):
        mask_(model, Channel(), example_input=torch.randn(1, 8, 5, 5))
    assert everything(model) == before


class Counting(nn.Module):
    """Returns something else at each call."""

    def __init__(self):
        super().__init__()
        self.a, self.count = nn.Linear(16, 16), 0
        self.a.weight.data[:8] = 0

    def forward(self, x):
        self.count += 1
        return self.a(x) * self.count


def test_a_model_that_cannot_be_compared_is_compressed_with_a_line():
    report = compress_(Counting().eval(), torch.randn(4, 16))
    assert report.rows[0].choice == "compact" and "the output changes from run to run" in str(report)
    model = Counting()
    model.forward = lambda x: str(model.a(x))
    assert "the output holds no tensor" in str(compress_(model, torch.randn(4, 16)))


def test_sampling_is_seeded_alike():
    class Sampling(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 16)

        def forward(self, x):
            return nn.functional.dropout(self.a(x)) + torch.randn(16) + random.random()

    x, model = torch.randn(2, 16), Sampling()
    states = torch.get_rng_state().tolist(), random.getstate()
    assert Outputs(model, x).unknown is None
    assert (torch.get_rng_state().tolist(), random.getstate()) == states


def test_a_model_may_write_into_its_input():
    class Writing(nn.Sequential):
        def forward(self, query, key):
            query += query is key
            return super().forward(query)

    layer = nn.Linear(16, 16)
    layer.weight.data[:8] = 0
    model, x = Writing(layer), torch.randn(4, 16)
    report = compress_(model, (x, x))
    assert report.rows[0].choice == "compact" and "not compared" not in str(report)


class Slots:
    __slots__ = ("y",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: {"a": [(y,)]},
        lambda y: SimpleNamespace(deep=SimpleNamespace(y=y)),
        lambda y: iter([None, "text", y]),
        lambda y: torch.distributions.Normal(y, 1.0),
        lambda y: y.sum(),
        lambda y: torch.complex(y, y),
        lambda y: y.masked_fill(y > 0, -torch.inf),
        lambda y: y.argmax(-1),
        lambda y: _slotted(y),
        lambda y: torch.nested.as_nested_tensor([y[0], y[1, :3]]),
    ],
)
def test_outputs_are_found_wherever_they_hide(wrap):
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8)
    forward = nn.Sequential.forward
    model.forward = lambda x: wrap(forward(model, x))
    expected = Outputs(model, x)
    assert expected.unknown is None and expected.changed(model) is None
    model[0].weight.data.normal_(), model[0].bias.data.normal_(std=10)
    assert expected.changed(model)


def _slotted(y):
    holder = Slots()
    holder.y = y
    return holder


# unmask_, twins


def test_unmask_refuses_before_it_touches_anything():
    model = hardened(net())
    last = list(masked_layers(model).values())[-1]
    last.gate = SoftGate((last.scores / 0.1).sigmoid())
    before = everything(model)
    with pytest.raises(ValueError, match="must be hard"):
        unmask_(model)
    assert everything(model) == before


def test_unmask_of_a_copy_that_has_lost_its_pruner_says_so(caplog):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    mask_(model, Block(8, 8))
    unmask_(model)
    assert "a copy that has lost its pruner" in caplog.text


def test_a_twin_shares_tensors_and_what_cannot_be_copied():
    import threading

    class Holder:
        def __deepcopy__(self, memo):
            raise RuntimeError("not me")

        def hook(self, module, args, y):
            return None

    model = nn.Sequential(nn.Linear(4, 4), SparseLinear(4, 4, Block(2, 2), 0.5))
    model.lock, model.loss, holder = threading.Lock(), model(torch.randn(2, 4)).sum(), Holder()
    model.listed, model.kept = [model[0]], {"losses": [model.loss]}
    model.register_forward_hook(holder.hook)
    other = twin(model)
    assert other[0] is not model[0] and other[0].weight is model[0].weight and other.loss is model.loss
    assert other.lock is model.lock and other.listed[0] is other[0] and other.kept["losses"][0] is model.loss
    x = torch.randn(2, 4)
    assert_close("y", other(x), model(x), x.dtype)
