"""Between two layers ``forward`` may do anything: an operator is followed, or its channels stay; none stops a model."""

import copy
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import Channel, mask_, slim_
from smart_kernels.convert.channels import remove
from smart_kernels.convert.channels.rules import RULES
from smart_train import SmartPruner
from tests.test_slim import Small, assert_same, outputs
from tests.util import assert_close

SIZE = 6
X = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
ROW = torch.arange(SIZE)


def filled(x, *places):
    out = x.new_zeros(x.shape)
    for place in places:
        out[place] = x[place]
    return out


def in_place(change):
    def changed(x):
        y = x.clone()
        change(y)
        return y

    return changed


FOLLOWED = {
    "erf": torch.erf,
    "sin": lambda x: x.sin(),
    "sign": torch.sign,
    "softshrink": F.softshrink,
    "round": lambda x: torch.round(x, decimals=1),
    "nan_to_num": torch.nan_to_num,
    "clamp-by-a-tensor": lambda x: x.clamp(min=-x.abs()),
    "mul-number-first": lambda x: torch.mul(2, x),
    "sub-keywords": lambda x: torch.sub(input=x, other=x, alpha=2),
    "add-keywords": lambda x: torch.add(other=x, input=x.relu()),
    "relu-keywords": lambda x: F.relu(input=x),
    "division-by-a-tensor": lambda x: x / torch.tensor(2.0),
    "maximum": lambda x: torch.maximum(x, x / 2),
    "max-of-two": lambda x: torch.max(x, x / 2),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x.relu(), value=0.5),
    "where": lambda x: torch.where(x > 0, x, x / 3),
    "masked_fill": lambda x: x.masked_fill(x > 1, 1.0),
    "comparison": lambda x: (x > 0.1).to(x.dtype),
    "mask": lambda x: x * ((x > 0.1) & (x < 1)),
    "view-with-a-batch": lambda x: x.view(x.size(0), -1).view(x.shape),
    "view-with-numbers": lambda x: x.view(2, -1, 36).view(2, -1, 6, 6),
    "reshape-of-sizes": lambda x: x.reshape(2, x.shape[1], 36).reshape(x.shape),
    "view-of-permuted": lambda x: x.permute(0, 2, 3, 1).reshape(2, 36, -1).permute(0, 2, 1).reshape(x.shape),
    "last-and-back": lambda x: x.permute(0, 2, 3, 1).flatten(1).view(2, 6, 6, -1).permute(0, 3, 1, 2),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "expand_as": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
    "cat-keywords": lambda x: torch.cat(tensors=(x, x), dim=2)[:, :, :6],
    "cumsum-of-rows": lambda x: x.cumsum(2),
    "normalize-rows": lambda x: F.normalize(x, dim=3),
    "sort-rows": lambda x: x.sort(dim=-1, descending=True).values,
    "max-of-rows": lambda x: x.max(dim=2, keepdim=True).values + x,
    "var-of-rows": lambda x: x.var(2, keepdim=True) + x,
    "norm-of-rows": lambda x: x.norm(p=2, dim=(2, 3), keepdim=True) * x,
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "glu": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "instance-norm": F.instance_norm,
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(2, 6, 6, 2), align_corners=False),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "written-whole": lambda x: filled(x, slice(None)),
    "written-in-halves": lambda x: filled(x, (..., slice(3)), (..., slice(3, None))),
    "channels-written": lambda x: filled(x, (slice(None), slice(0, x.shape[1]))),
    "relu-in-place": in_place(lambda y: y.relu_()),
    "mul-in-place": in_place(lambda y: y.mul_(2)),
    "rows-in-place": in_place(lambda y: y[:, :, 1:].mul_(2)),
    "rows-written": in_place(lambda y: y.__setitem__((..., 0), 0.0)),
    "an-assertion": lambda x: x if x.shape[1] else None,
}
NOT_ZERO = {
    "add-number-first": lambda x: torch.add(1, x),
    "cos": torch.cos,
    "reciprocal": lambda x: 1 / (x + 3),
    "softmax-of-rows": lambda x: x.softmax(-1),
    "pow-of-a-number": lambda x: 2**x,
    "logsumexp": lambda x: x.logsumexp((2, 3), keepdim=True) * torch.ones_like(x),
    "reflected": lambda x: F.pad(x, (1, 1), mode="constant", value=2.0),
    "added-through-a-view": in_place(lambda y: y.view(2, -1).add_(1)),
    "written-through-a-view": in_place(lambda y: y[:, :, 0].fill_(1.0)),
}
MIXED = {
    "softmax": lambda x: x.softmax(1),
    "cumsum": lambda x: x.cumsum(1),
    "layer-norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "mean-of-channels": lambda x: x - x.mean(1, keepdim=True),
    "argmax-of-channels": lambda x: x * x.argmax(1, keepdim=True),
    "normalize": F.normalize,
    "matmul": lambda x: torch.einsum("bchw,cd->bdhw", x, torch.ones(8, 8)),
    "flip": lambda x: x.flip(1),
    "half-of-them": lambda x: torch.cat([x[:, 4:], x[:, :4]], 1),
    "padded-by-copies": lambda x: F.pad(x.transpose(1, 3), (1, 0, 0, 0), mode="circular")[..., 1:].transpose(1, 3),
    "one-written": in_place(lambda y: y.__setitem__((slice(None), 1), 1.0)),
    "some-written": in_place(lambda y: y.__setitem__((slice(None), slice(4)), y[:, 4:])),
}
UNKNOWN = {
    "view-of-all-numbers": lambda x: x.view(2, 8, 6, 6),
    "a-number-of-channels": lambda x: x + torch.ones(8, 1, 1),
    "unfold": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1),
    "fft": lambda x: torch.fft.fft2(x).real,
    "gather": lambda x: x.gather(3, ROW.flip(0).expand(x.shape)),
    "scatter": lambda x: x.scatter(3, ROW.expand(x.shape), x),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([2]), 1.0),
    "index_add": lambda x: x.index_add(3, ROW, x),
    "index_put": lambda x: x.index_put((torch.tensor([0]),), torch.zeros(8, 6, 6)),
    "take_along_dim": lambda x: x.take_along_dim(x.argsort(3), 3),
    "topk": lambda x: x.topk(6, dim=3).values,
    "kthvalue": lambda x: x.kthvalue(2, dim=3, keepdim=True).values * x,
    "tril": torch.tril,
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "bucketize": lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)).float(),
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "histogram": lambda x: x * torch.histc(x).sum(),
    "as_strided": lambda x: x.as_strided(x.shape, x.stride()),
    "map": lambda x: torch.vmap(torch.relu)(x),
    "copied": lambda x: torch.empty_like(x).copy_(x),
    "unknown-in-place": in_place(lambda y: y.cumsum_(1)),
    "unknown-through-a-view": in_place(lambda y: y.flatten(2).tril_()),
    "to-numpy": lambda x: torch.from_numpy(x.numpy() * 2),
    "to-python": lambda x: torch.tensor(x.tolist()),
    "a-value": lambda x: x * x[0, 0, 0, 0].item(),
    "aten": lambda x: torch.ops.aten.hardtanh_backward(x, x, -1.0, 1.0),
}
WAYS = [
    *((FOLLOWED, name, 6) for name in FOLLOWED),
    *((kind, name, 8) for kind in (NOT_ZERO, MIXED, UNKNOWN) for name in kind),
]


@torch.no_grad()
@pytest.mark.parametrize("kind, name, channels", [pytest.param(*way, id=way[1]) for way in WAYS])
def test_between_two_layers(kind, name, channels):
    model = Small(kind[name])
    before = outputs(model, X)
    slim_(model, X)
    assert model.a.out_channels == model.b.in_channels == channels
    assert_same(model, before, X)


def test_the_list_of_ways_is_long():
    assert len(WAYS) >= 57 and len(RULES) > 200


@dataclass
class Answer:
    logits: torch.Tensor
    others: tuple = ()


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


class Head(nn.Module):
    """Two Linears; what it returns is packed up."""

    def __init__(self, pack):
        super().__init__()
        self.a, self.head, self.pack = nn.Linear(16, 8), nn.Linear(8, 4), pack
        with torch.no_grad():
            self.a.weight[:2], self.a.bias[:2] = 0, 0

    def forward(self, x):
        return self.pack(self.head(self.a(x)))


CONTAINERS = {
    "dataclass": (lambda y: Answer(y), lambda out: out.logits),
    "in-a-tuple-in-it": (lambda y: Answer(y[:0], (1, {"deep": [y]})), lambda out: out.others[1]["deep"][0]),
    "mapping": (lambda y: MappingProxyType({"y": y}), lambda out: out["y"]),
    "attributes": (lambda y: SimpleNamespace(logits=y, name="head"), lambda out: out.logits),
    "slots": (Slotted, lambda out: out.logits),
    "generator": (lambda y: (part * 2 for part in y.unbind()), lambda out: torch.stack(list(out))),
    "iterator": (lambda y: iter([y]), next),
    "distribution": (lambda y: torch.distributions.Normal(y, 1.0), lambda out: out.loc),
    "nothing-beside-it": (lambda y: (None, "text", 3, {y}), lambda out: next(iter(out[3]))),
    "scalar": (torch.mean, lambda out: out),
    "scalars": (lambda y: {"loss": y.square().sum(), "top": y.max()}, lambda out: out["loss"]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CONTAINERS)
def test_outputs_in_containers(name):
    pack, unpack = CONTAINERS[name]
    model, x = Head(pack), torch.randn(3, 16)
    before = unpack(model(x))
    slim_(model, x)
    assert (model.a.out_features, model.head.out_features) == (6, 4)
    assert_close(name, unpack(model(x)), before, torch.float32)
    mask_(model, Channel(), lambda _, name: name == "a", example_input=x)
    assert_close("masked", unpack(model(x)), before, torch.float32)


@pytest.mark.parametrize("pack", [lambda y: None, lambda y: "text", lambda y: [y.tolist()], lambda y: object()])
def test_an_output_without_a_tensor_is_refused(pack):
    model, x = Head(pack), torch.randn(3, 16)
    with pytest.raises(ValueError, match=r"output must show a tensor"):
        slim_(model, x)
    with pytest.raises(ValueError, match=r"output must show a tensor"):
        mask_(model, Channel(), lambda _, name: name == "a", example_input=x)
    assert type(model.a) is nn.Linear and model.a.out_features == 8


def photograph(model):
    """Everything that a failed change must not have changed."""
    tensors = [(n, t, t.data_ptr(), t.shape, t.detach().clone(), t.grad, t.requires_grad) for n, t in named(model)]
    numbers = [{k: v for k, v in vars(m).items() if isinstance(v, int | tuple | str)} for m in model.modules()]
    return tensors, numbers, [type(m) for m in model.modules()]


def named(model):
    return [*model.named_parameters(), *model.named_buffers()]


def assert_unchanged(model, photo):
    tensors, numbers, classes = photograph(model)
    for (name, *new), (_, *old) in zip(tensors, photo[0], strict=True):
        assert new[0] is old[0] and new[1:3] == old[1:3] and new[3].equal(old[3]), name
        assert new[4] is old[4] and new[5] == old[5], name
    assert (numbers, classes) == photo[1:]


def net():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.PReLU(8), nn.Flatten(), nn.Linear(32, 4)
    )
    with torch.no_grad():
        model[0].weight[:2], model[0].bias[:2], model[1].bias[2:] = 0, 0, 1
        model[2].bias[:2] = 0
    model(X).sum().backward()
    return model.eval()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["follow", "resize", "compare"])
def test_slimming_that_fails_in_the_middle_changes_nothing(step, error, monkeypatch):
    model = net()
    photo = photograph(model)
    owner, name, times = {
        "follow": (remove, "select_", 3),
        "resize": (remove, "resize_", 1),
        "compare": (remove.Outputs, "changed", 1),
    }[step]
    real, calls = getattr(owner, name), []

    def failing(*args):
        calls.append(name)
        if len(calls) == times:
            raise error("in the middle")
        return real(*args)

    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(error, match="in the middle"):
        slim_(model, X)
    assert_unchanged(model, photo)
    monkeypatch.undo()
    slim_(model, X)
    assert model[0].out_channels == model[2].groups == model[3].num_parameters == 6


def test_an_output_that_changes_is_seen(monkeypatch):
    model = net()
    photo = photograph(model)
    spoil = lambda model, *_: (model[0].weight.data.__imul__(1.01) is None, frozenset())  # noqa: E731
    monkeypatch.setattr(remove, "_cut", spoil)
    with pytest.raises(ValueError, match="the output must agree to rounding, got a relative difference of"):
        slim_(model, X)
    model[0].weight.data /= 1.01
    assert model[0].weight.data_ptr() == photo[0][0][2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_only_a_compiled_function_reads_stays(caplog):
    compiled = torch.jit.trace(lambda x: x.relu() * 2, torch.ones(2, 8, 6, 6))
    model = Small(compiled)
    slim_(model, X)
    assert model.a.out_channels == 8
    assert [r.message for r in caplog.records if "leave conv2d in a: it is not seen what reads them" in r.message]


class Counting(nn.Module):
    """Its output depends on how many channels there are, which nobody can see from outside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = self.a(x)
        self.last = y
        return self.b(y * y.shape[1])


def test_what_slim_will_refuse_is_refused_before_the_training():
    model = Counting()
    photo = photograph(model)
    with pytest.raises(ValueError, match=r"slim_ could not remove what is pruned .* must agree to rounding"):
        mask_(model, Channel(), lambda *_: True, example_input=X)
    assert_unchanged(model, photo)
    with torch.no_grad():
        model.a.weight[1], model.a.bias[1] = 0, 0
    photo = photograph(model)
    with pytest.raises(ValueError, match="left the model as it was: the output must agree to rounding"):
        slim_(model, X)
    assert_unchanged(model, photo)


class Written(nn.Module):
    """A size in ``forward``, where a convolution meets a Linear, as a view or an assertion."""

    def __init__(self, how):
        super().__init__()
        self.c, self.d, self.how = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), how
        self.l, self.head = nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, x):
        y = self.d(self.c(x))
        if self.how == "assertion":
            assert y.shape[1] == 8
        y = {"view": lambda: y.view(-1, 32), "batch": lambda: y.view(2, -1)}.get(self.how, lambda: y.flatten(1))()
        return self.head(self.l(y))


@pytest.mark.parametrize("how, sizes", [("view", (4, 8, 8)), ("batch", (4, 4, 8)), ("flatten", (4, 4, 8))])
def test_sizes_written_down_are_found_by_a_rehearsal(how, sizes, caplog):
    model = Written(how)
    where = {"filter_fn": lambda _, name: name != "head", "example_input": X}
    pruner = SmartPruner(model, Channel(), 0.5, scope="layer", search_steps=1, **where)
    warned = [r.message for r in caplog.records if "does not run with fewer" in r.message]
    assert len(warned) == (how == "view")
    pruner.step()
    pruner.finalize()
    before = outputs(model, X)
    slim_(model, X)
    assert (model.c.out_channels, model.d.out_channels, model.l.out_features) == sizes
    assert_same(model, before, X)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.a = width, nn.Linear(width, width)

    def forward(self, x):
        assert x.shape[-1] == self.width, "a check in Python"
        return self.a(x).relu()


def test_a_module_that_checks_its_input_keeps_it(caplog):
    model, x = nn.Sequential(nn.Linear(4, 8), Block(8), nn.Linear(8, 8), nn.Linear(8, 2)), torch.randn(5, 4)
    layers = mask_(model, Channel(), lambda *_: True, example_input=x)
    assert sorted(layers) == ["1.a", "2"]
    assert [r.message for r in caplog.records if "reach in 1: the model does not run with fewer" in r.message]


@torch.no_grad()
@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
def test_a_recurrent_layer_reads_fewer_channels(cls, packed):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.rnn = nn.Linear(4, 8), cls(8, 6, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            y = self.a(x)
            if packed:
                y = nn.utils.rnn.pack_padded_sequence(y, [5, 3], batch_first=True)
            y, _ = self.rnn(y)
            return self.head(nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0] if packed else y)

    model, x = Net(), torch.randn(2, 5, 4)
    model.a.weight[:2], model.a.bias[:2] = 0, 0
    before = outputs(model, x)
    slim_(model, x)
    assert (model.a.out_features, model.rnn.input_size, model.rnn.hidden_size) == (6, 6, 6)
    assert_same(model, before, x)


class Tokens(nn.Module):
    """Integers that say where, a table of cosines, and a stream as wide as the table is long."""

    def __init__(self, rotary=False):
        super().__init__()
        self.embedding, self.rotary = nn.Embedding(64, 64), rotary
        self.register_buffer("positions", torch.arange(64)[None])
        self.register_buffer("mask", torch.ones(64, dtype=torch.bool))
        self.register_buffer("frequencies", torch.linspace(1, 0.1, 32))
        self.up, self.down, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x):
        positions = self.positions[:, : x.shape[1]]
        x = x + self.embedding(positions)
        if self.rotary:
            angles = positions[..., None] * self.frequencies
            cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
            x = x * cos + torch.cat([-x[..., 32:], x[..., :32]], -1) * sin
        return self.head(x + self.down(torch.relu(self.up(x)) * self.mask))


@pytest.mark.parametrize("rotary", [False, True])
def test_what_is_as_long_as_a_channel_is_no_channel(rotary):
    model, x = Tokens(rotary), torch.randn(2, 16, 64)
    model.mask = torch.ones((), dtype=torch.bool)
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    assert list(pruner.layers) == ["up"]
    pruner.step()
    pruner.finalize()
    before = outputs(model, x)
    slim_(model, x)
    assert model.up.out_features == 32 and model.embedding.embedding_dim == 64
    assert model.positions.shape == (1, 64) and model.frequencies.shape == (32,)
    assert_same(model, before, x)


def test_a_mask_of_integers_holds_the_channels_that_it_meets():
    model, x = Tokens(), torch.randn(2, 16, 64)
    with pytest.raises(ValueError, match="needs at least one"):
        mask_(model, Channel(), example_input=x)


@torch.no_grad()
def test_the_columns_of_a_table_go_where_all_are_zero():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4), nn.Linear(4, 2))
    model[0].weight[:, :3] = 0
    x = torch.randint(0, 10, (3, 7))
    before = outputs(model, x)
    slim_(model, x)
    assert model[0].embedding_dim == model[1].in_features == 5
    assert_same(model, before, x)


def test_the_hidden_layer_of_a_transformer_goes_past_its_fast_path():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 16)
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=1, example_input=x, filter_fn=lambda _, n: "linear1" in n)
    pruner.step()
    pruner.finalize()
    before = outputs(model, x)
    slim_(model, x)
    assert sum(layer.linear1.out_features for layer in model.layers) == 32
    assert_same(model, before, x)


def test_a_rehearsal_shares_nothing_with_the_model():
    model = Written("flatten")
    model.c(X)
    model.activations = model.c.weight * 2  # of autograd
    state = copy.deepcopy(model.state_dict())
    kept = model.activations
    mask_(model, Channel(), example_input=X)
    assert model.activations is kept
    assert all(model.state_dict()[key].equal(tensor) for key, tensor in state.items())


def test_a_model_that_samples_agrees_with_itself():
    model = Small(lambda x: x + torch.rand(2, 1, 6, 6) * x)
    slim_(model, X)
    assert model.a.out_channels == 6


def test_a_model_that_writes_into_its_input():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    x = X.clone()
    mask_(model, Channel(), lambda _, name: name == "1", example_input=x)
    assert x.equal(X)


def shuffled(x, groups=2):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@torch.no_grad()
@pytest.mark.parametrize("dead, channels", [((1, 5), 6), ((1, 4), 8), ((0, 2, 4, 6), 4)])
def test_channels_at_the_same_place_of_each_part_go_together(dead, channels):
    model = Small(shuffled)
    nn.init.normal_(model.a.weight), nn.init.normal_(model.a.bias)
    model.a.weight[list(dead)], model.a.bias[list(dead)] = 0, 0
    before = outputs(model, X)
    slim_(model, X)
    assert model.a.out_channels == channels
    assert_same(model, before, X)


class Branches(nn.Module):
    """Two convolutions side by side in one tensor; a third, from the sum of both, says how much of each is taken."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.share, self.head = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        both = torch.stack([self.a(x), self.b(x)], 1)
        share = self.share(both.sum(1).mean((2, 3), keepdim=True))
        return self.head((both * share.view(len(x), 2, -1, 1, 1).softmax(1)).sum(1))


@torch.no_grad()
def test_what_is_stacked_and_summed_goes_together():
    model = Branches()
    where = {"filter_fn": lambda _, name: name != "head", "example_input": X}
    pruner = SmartPruner(model, Channel(), 0.5, search_steps=1, **where)
    assert sorted(pruner.masked.sharing) == ["a"] and len(pruner.masked.sharing["a"]) == 3
    pruner.step()
    pruner.finalize()
    before = outputs(model, X)
    slim_(model, X)
    assert [len(layer.weight) for layer in (model.a, model.b, model.share)] == [4, 4, 8]
    assert_same(model, before, X)


class Total(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True) * torch.ones(1, 16, 1, 1)


@torch.no_grad()
def test_channels_that_are_summed_up_with_others_stay():
    model = Branches()
    model.share = Total()
    for layer in (model.a, model.b):
        layer.weight[:2], layer.bias[:2] = 0, 0
    slim_(model, X)
    assert model.a.out_channels == model.b.out_channels == 8
