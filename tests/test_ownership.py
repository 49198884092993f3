"""Users' things stay theirs: sharing, names, hooks, computed weights, wrappers, keyword calls."""

import copy
import logging
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from smart_kernels import Block, Channel, SparseLinear, compress_, load, mask_, save, slim_, unmask_
from smart_kernels.convert import masked_layers
from smart_kernels.convert.measure import timing
from smart_kernels.nn import HardGate, MaskedBatchNorm, Sparse, SparseConv2d
from smart_kernels.patterns import NM
from tests.conftest import INTERPRETED
from tests.util import assert_close

if INTERPRETED:
    pytest.skip("measures layers, which takes hours in the interpreter", allow_module_level=True)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Every candidate takes as long as every other."""
    monkeypatch.setattr(timing, "time_in_turns", lambda candidates, *_: {name: [1.0] * 4 for name in candidates})


def half_dead(layer):
    layer.weight.data[: len(layer.weight) // 2] = 0
    return layer


def compressed(model, *inputs):
    """The report of compress_, which has changed no output."""
    with torch.no_grad():
        expected = model(*inputs)
        report = compress_(model, inputs, policy="size")
        assert_close("y", model(*inputs), expected, expected.dtype)
    return report


# what hangs on a layer


@pytest.mark.parametrize(
    "make, shape", [(lambda: nn.Linear(32, 32), (4, 32)), (lambda: nn.Conv2d(32, 32, 3), (1, 32, 5, 5))]
)
def test_a_layer_that_becomes_sparse_stays_the_same_object(make, shape):
    model, x, seen = nn.ModuleDict({"a": half_dead(make())}), torch.randn(shape, requires_grad=True), []
    layer = model["a"]
    model["b"], model.listed, layer.note = layer, {"layers": [layer]}, "kept"
    model.forward = lambda x: model["b"](model.listed["layers"][0](x).clone() if x.dim() == 2 else x)
    layer.register_buffer("mine", torch.ones(3)), layer.register_parameter("own", nn.Parameter(torch.ones(2)))
    layer.inner = nn.ReLU()
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append("before"), with_kwargs=True)
    handle = layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    layer.bias.requires_grad_(False)
    bias, names = layer.bias, [name for name, _ in model.named_modules(remove_duplicate=False)]
    expected = model(x)
    compress_(model, x, policy="size")
    assert isinstance(layer, Sparse) and model["a"] is model["b"] is model.listed["layers"][0] is layer
    assert [n for n, _ in model.named_modules(remove_duplicate=False) if "format" not in n] == names
    assert layer.note == "kept" and layer.bias is bias and not bias.requires_grad and layer.inner is model["a"].inner
    assert {"a.mine", "a.own", "a.bias"} <= model.state_dict().keys() and "a.weight" not in model.state_dict()
    seen.clear()
    y = model(x)
    assert_close("y", y, expected, x.dtype)
    y.sum().backward()
    calls = 1 + (x.dim() == 2)
    assert seen == ["before", "after"] * calls + ["backward"] * calls
    handle.remove()
    model(x)
    assert seen.count("after") == calls
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(nn.Sequential(make()) and bare(layer)))):
        assert_close("copy", other(x), layer(x), x.dtype)
    compress_(model, x, backends=("dense",))
    assert type(layer) is type(make()) and layer.note == "kept" and "format" not in dict(layer.named_children())
    assert list(layer.state_dict())[-2:] == ["weight", "bias"] or {"weight", "bias"} <= layer.state_dict().keys()
    assert_close("dense again", model(x), expected, x.dtype)


def bare(layer):
    """A copy without hooks, which are no more picklable than the user makes them."""
    other = copy.deepcopy(layer)
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_pre_hooks_with_kwargs"):
        getattr(other, hooks).clear()
    return other


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.a = half_dead(nn.Conv2d(8, 16, 3)), nn.BatchNorm2d(16), half_dead(nn.Linear(16, 16))

    def forward(self, x):
        return self.a(input=self.norm(input=self.conv(input=x)).mean((2, 3)))


def test_layers_are_called_by_keyword():
    model, x = Keywords().eval(), torch.randn(2, 8, 5, 5)
    model.norm.running_mean.normal_()
    expected = model(x)
    for layer in mask_(model, Block(8, 8), lambda module, name: True).values():
        layer.gate = HardGate(torch.ones_like(layer.scores))
    assert_close("masked", model(x), expected, x.dtype)
    unmask_(model)
    report = compressed(model, x)
    assert [row.sparse for row in report.rows] == [True, True] and isinstance(model.conv, SparseConv2d)
    assert not isinstance(model.norm, nn.BatchNorm2d)


def test_frozen_layers_stay_frozen():
    model = nn.Sequential(half_dead(nn.Linear(32, 32)), nn.Linear(32, 4)).requires_grad_(False)
    compressed(model, torch.randn(4, 32))
    assert isinstance(model[0], Sparse) and not any(p.requires_grad for p in model.parameters())


def test_the_first_of_several_users_need_not_be_called():
    model = nn.ModuleDict({"idle": half_dead(nn.Linear(32, 32)), "busy": nn.Linear(32, 32)})
    model["busy"].weight = model["idle"].weight
    model.forward = lambda x: model["busy"](x)
    report = compressed(model, torch.randn(4, 32))
    assert report.rows[0].name == "busy" and report.rows[0].shared == ("idle",) and report.rows[0].sparse


def test_an_auxiliary_loss_may_hang_in_the_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.losses = half_dead(nn.Conv2d(8, 16, 3)), nn.BatchNorm2d(16), []

        def forward(self, x):
            y = self.norm(self.conv(x))
            self.auxiliary = y.mean()
            self.losses.append({"of": self.auxiliary})
            return y

    model, x = Net(), torch.randn(2, 8, 5, 5)
    model(x)
    compressed(model.eval(), x)
    assert isinstance(model.auxiliary, torch.Tensor)


@pytest.mark.parametrize("backends", [None, ("dense", "compact"), ("dense", "ell"), ("dense", "bsr"), ("dense", "csr")])
def test_the_output_of_a_dead_layer_may_be_added_to(backends):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.conv = nn.Linear(32, 32), nn.Conv2d(4, 4, 1)
            nn.init.zeros_(self.a.weight), nn.init.zeros_(self.conv.weight)

        def forward(self, x):
            y = self.a(x)
            y += x
            z = self.conv(y.view(-1, 4, 4, 2))
            z.mul_(2).add_(1)
            return y, z

    for bias in (True, False):
        model, x = Net(), torch.randn(6, 32)
        if not bias:
            model.a.bias = model.conv.bias = None
        with torch.no_grad():
            expected = model(x)
            compress_(model, x, policy="size", backends=backends)
            for got, want in zip(model(x), expected, strict=True):
                assert_close("y", got, want, x.dtype)


def test_an_unpruned_layer_stays_dense():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 30, 3), nn.Flatten(), nn.Linear(30, 5), nn.Linear(5, 7))
    report = compressed(model.eval(), torch.randn(1, 3, 5, 5))
    assert not any(row.sparse for row in report.rows) and not any(isinstance(m, Sparse) for m in model.modules())


# weights that are computed, and layers that are no plain ones


class Conv1D(nn.Module):
    """A layer of another library, its weight transposed."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.zeros(32))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def patched(layer):
    inner = layer.forward
    layer.forward = lambda *args, **kwargs: 3 * inner(*args, **kwargs)
    return layer


OTHERS = {
    "subclass": (lambda: Scaled(32, 32), "Scaled is a subclass of nn.Linear"),
    "hf": (Conv1D, "Conv1D is neither nn.Linear nor nn.Conv2d"),
    "weight_norm": (lambda: weight_norm(nn.Linear(32, 32)), "its weight is computed by WeightNorm"),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(32, 32)), "its weight is computed by SpectralNorm"),
    "parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(32, 32)),
        "its weight is parametrized (_WeightNorm)",
    ),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(32, 32)), "its weight is parametrized (_Orthogonal)"),
    "patched": (lambda: patched(nn.Linear(32, 32)), "its forward has been replaced"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_plain_layer_is_left_alone_with_a_line(kind, caplog):
    make, reason = OTHERS[kind]
    model = nn.Sequential(half_dead(nn.Linear(32, 32)), make(), nn.Linear(32, 32)).eval()
    x, other = torch.randn(4, 32), model[1]
    expected, state = model(x), {key: value.clone() for key, value in model.state_dict().items() if key[0] == "1"}
    with caplog.at_level(logging.WARNING):
        masked = mask_(model, Block(8, 8))
    assert "1" not in masked and sum(reason in record.getMessage() for record in caplog.records) == 1
    unmask_(model)
    report = compressed(model, x)
    assert [row.name for row in report.rows] == ["0", "2"] and report.left == {"1": reason}
    assert f"1 is left alone: {reason}" in str(report) and type(report).from_dict(report.to_dict()) == report
    assert model[1] is other and {key: value.tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in model.state_dict().items() if key[0] == "1"
    }
    assert_close("y", model(x), expected, x.dtype)


def test_a_weight_shared_with_one_of_them_stays_dense(caplog):
    model = nn.Sequential(half_dead(nn.Linear(32, 32)), patched(nn.Linear(32, 32)), nn.Linear(32, 32))
    model[1].weight = model[0].weight
    report = compressed(model, torch.randn(4, 32))
    assert type(model[0]) is nn.Linear and report.left["0"].startswith("its weight has users of several kinds, 1")
    assert list(mask_(model, Block(8, 8), lambda module, name: True)) == ["2"]
    assert "0 stays dense: its weight is also used by 1" in caplog.text


def test_layers_without_a_weight_yet_are_named(caplog):
    model = nn.Sequential(nn.LazyLinear(32), nn.Linear(32, 32), nn.Linear(32, 4))
    assert list(mask_(model, Block(8, 8))) == ["1"] and "LazyLinear is a subclass" in caplog.text


class Adapter(nn.Module):
    """Stand for LoRA's Linear: the frozen layer inside, two small ones beside it, and its weight passed on."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_A["default"] = nn.Linear(base.in_features, 4, bias=False)
        self.lora_B["default"] = nn.Linear(4, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x, *args, **kwargs):
        return self.base_layer(x, *args, **kwargs) + self.lora_B["default"](self.lora_A["default"](x))

    def merge(self):
        self.base_layer.weight.data += self.lora_B["default"].weight @ self.lora_A["default"].weight


def test_adapters_beside_a_frozen_layer():
    model, x = nn.Sequential(Adapter(half_dead(nn.Linear(32, 32))), nn.ReLU(), nn.Linear(32, 4)), torch.randn(4, 32)
    masked = mask_(model, Block(8, 8))
    assert list(masked) == ["0.base_layer"] and not masked["0.base_layer"].scores.requires_grad
    unmask_(model)
    compressed(model, x)
    base = model[0].base_layer
    assert isinstance(base, SparseLinear) and not any(p.requires_grad for p in base.parameters())
    model(x).sum().backward()
    assert model[0].lora_A["default"].weight.grad is not None
    with pytest.raises(RuntimeError, match="computed to be read"):
        model[0].merge()


# masks of torch.nn.utils.prune


PRUNED = {
    "unstructured": lambda m: torch_prune.l1_unstructured(m, "weight", 0.8),
    "structured": lambda m: torch_prune.ln_structured(m, "weight", 0.5, 2, 0),
    "twice": lambda m: [torch_prune.random_unstructured(m, "weight", 0.5) for _ in range(2)],
    "bias": lambda m: torch_prune.l1_unstructured(m, "bias", 0.5),
    "global": lambda m: torch_prune.global_unstructured(
        [(m, "weight"), (m, "bias")], torch_prune.L1Unstructured, amount=0.7
    ),
}


@pytest.mark.parametrize("how", PRUNED)
def test_masks_of_torch_become_zeros(how):
    model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Conv1d(4, 4, 1), nn.Linear(32, 10)), torch.randn(4, 32)
    PRUNED[how](model[0]), PRUNED[how](model[2])
    original = {name: p for name, p in model[0].named_parameters()}
    report = compressed(model, x)
    assert [row.name for row in report.rows] == ["0", "3"] and not model[0]._forward_pre_hooks
    assert not any(key.endswith(("_mask", "_orig")) for key in model.state_dict())
    assert report.rows[0].kept < 1 or how == "bias"
    if not isinstance(model[0], Sparse) and "weight_orig" in original:
        assert model[0].weight is original["weight_orig"]
    assert list(report.left) == ["2"]


@pytest.mark.parametrize("second", ["whole", "alike", "another"])
def test_masks_of_torch_on_a_shared_weight(second):
    model, x = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)), torch.randn(4, 32)
    mask = (torch.rand(32, 32) < 0.3).float()
    torch_prune.custom_from_mask(model[0], "weight", mask)
    model[1].weight = model[0].weight_orig
    if second != "whole":
        torch_prune.custom_from_mask(model[1], "weight", mask if second == "alike" else 1 - mask)
    report = compressed(model, x)
    if second == "alike":
        assert not report.left and report.rows[0].shared == ("1",) and not torch_prune.is_pruned(model[0])
    else:
        assert set(report.left) == {"0", "1"} and torch_prune.is_pruned(model[0])


def test_masks_of_torch_are_where_pruning_goes_on():
    model, x = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)), torch.randn(4, 32)
    for layer in model:
        torch_prune.ln_structured(layer, "weight", 0.5, 2, 0)
    expected = model(x)
    masked = mask_(model, Block(8, 8), lambda module, name: name == "0")
    assert list(masked) == ["0"] and (masked["0"].weight == 0).float().mean() == 0.5
    assert torch_prune.is_pruned(model[1]) and not torch_prune.is_pruned(model[0])
    assert_close("y", model(x), expected, x.dtype)
    with pytest.raises(ValueError, match="none"):
        mask_(model, NM(2, 4), lambda module, name: name == "none")
    assert torch_prune.is_pruned(model[1])


# reading the weight of a sparse layer


def sparse(make=lambda: SparseLinear(16, 16, Block(8, 8), 0.5)):
    return make()


CHANGES = {
    "zero_": lambda w: w.zero_(),
    "data": lambda w: w.data.mul_(2),
    "detach": lambda w: w.detach().add_(1),
    "row": lambda w: w[0].zero_(),
    "rows": lambda w: w.chunk(2)[0].fill_(1),
    "view": lambda w: w.view(-1)[:3].copy_(torch.ones(3)),
    "item": lambda w: w.__setitem__((0, 0), 1.0),
    "set data": lambda w: setattr(w, "data", torch.zeros(16, 16)),
    "operator": lambda w: w.__iadd__(1),
    "init": lambda w: nn.init.zeros_(w),
    "out": lambda w: torch.mul(torch.ones(16, 16), 2, out=w),
    "foreach": lambda w: torch._foreach_mul_([w], 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_writing_into_a_computed_weight_is_an_error(change):
    layer = sparse()
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"computed to be read, and .* would change a copy"), torch.no_grad():
        CHANGES[change](layer.weight)
    assert torch.equal(layer.weight, before)
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(torch.zeros(16, 16))


def test_so_is_the_bias_where_channels_are_dead():
    layer = SparseLinear(16, 16, Channel(), 0.5)
    with pytest.raises(RuntimeError, match="computed to be read"):
        layer.bias.data.zero_()
    layer._parameters["bias"].data.fill_(1)
    assert layer.bias.sum() == 8 and layer(torch.zeros(2, 16)).sum() == 16
    sparse().bias.data.zero_()  # a Parameter


def test_a_computed_weight_reads_like_any_tensor():
    layer, x = sparse(), torch.randn(4, 16)
    weight = layer.weight
    assert isinstance(weight, torch.Tensor) and weight.shape == (16, 16) and weight.device == x.device
    assert_close("y", F.linear(x, weight, layer.bias), layer(x), x.dtype)
    for free in (weight + 1, weight.clone(), weight @ weight, weight.abs().sum(), torch.cat([weight]), 0 + weight):
        assert type(free) is torch.Tensor
    weight.clone().zero_(), weight.sum(1).add_(1), x.mul_(weight[:4])
    assert len(list(weight)) == 16 and len(repr(weight)) > 20 and weight[0].tolist() == weight.tolist()[0]
    (weight * 2).sum().backward()
    assert layer.format.values.grad.eq(2).all()
    for copied in (copy.deepcopy(weight.detach()), pickle.loads(pickle.dumps(weight.detach()))):
        assert type(copied) is torch.Tensor and torch.equal(copied, weight)
    assert type(layer.to_dense().weight) is nn.Parameter and type(layer.to_dense().weight.data) is torch.Tensor
    layer.to_dense().weight.data.zero_()


# BatchNorms of other classes


class Own(nn.BatchNorm2d):
    """As in other libraries: an activation behind the norm."""

    def forward(self, x):
        training = self.training
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        return F.relu(x)


class Same(nn.BatchNorm2d):
    """Another name."""


def cnn(norm, **settings):
    layers = [nn.Conv2d(8, 16, 3), norm(16, **settings), nn.ReLU(), nn.Conv2d(16, 8, 3), norm(8), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("norm, settings", [(Own, {}), (Same, {}), (nn.BatchNorm2d, {}), (Same, {"affine": False})])
@pytest.mark.parametrize("coupled", [True, False])
def test_channels_behind_batchnorms_of_other_classes(norm, settings, coupled):
    model, x = cnn(norm, **settings), torch.randn(4, 8, 7, 7)
    model(x)
    expected = model.eval()(x)
    layers = mask_(model, Channel(), example_input=x if coupled else None)
    assert layers and all(type(m).__mro__[1] is not MaskedBatchNorm or isinstance(m, norm) for m in model.modules())
    assert_close("masked", model(x), expected, x.dtype)
    for layer in layers.values():
        layer.gate = HardGate((torch.arange(len(layer.scores))[:, None] % 2).float())
    masks = [m for m in model.modules() if isinstance(m, MaskedBatchNorm)]
    assert len(masks) == (0 if norm is Own and not coupled else 2 - bool(settings))
    pruned = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close("copy", other(x), pruned, x.dtype)
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    unmask_(model)
    assert {type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {norm}
    assert not masked_layers(model)
    assert_close("plain", model(x), pruned, x.dtype)
    report = compressed(copy.deepcopy(model), x)
    assert (len(report.left) == 2) == (norm is Own)
    if coupled and not settings:
        assert slim_(model, x).layers and model[0].weight.shape[0] == 8
        assert_close("slim", model(x), pruned, x.dtype)


def test_a_norm_that_is_shared_carries_no_mask():
    model = cnn(Same)
    model.append(Same(16))
    model[-1].weight = model[1].weight
    model.forward = lambda x: nn.Sequential(*list(model)[:6])(x)
    mask_(model, Channel())
    assert not isinstance(model[1], MaskedBatchNorm)


def test_a_bias_that_others_add_too_stays():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    model[1].bias = model[0].bias
    assert list(mask_(model, Channel())) == ["2"]
    assert list(mask_(model, Block(8, 8))) == ["0", "1"]


def test_a_container_of_outputs_is_compared():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = half_dead(nn.Linear(16, 16))

        def forward(self, x):
            return SimpleNamespace(loss=None, logits=self.a(x))

    model, x = Net(), torch.randn(2, 16)
    report = compress_(model, x, policy="size")
    assert report.rows[0].sparse and "not compared" not in str(report)


def test_in_inference_mode_a_model_is_changed_that_can_still_learn(tmp_path):
    model, x = nn.Sequential(half_dead(nn.Linear(32, 32)), nn.Linear(32, 8)).eval(), torch.randn(4, 32)
    twin = copy.deepcopy(model)
    with torch.inference_mode():
        report = compress_(model, x, policy="size")
        save(model, tmp_path, report)
        load(twin, tmp_path)
    for each in (model, twin):
        assert isinstance(each[0], SparseLinear)
        each(x.clone().requires_grad_()).sum().backward()
        assert each[1].weight.grad.any()
    twin = nn.Sequential(nn.Linear(16, 16))
    with torch.inference_mode():
        mask_(twin, Block(8, 8))
    assert not twin[0].scores.is_inference()


def test_layers_of_other_numbers_or_of_none_stay(caplog):
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match="needs at least one"):
        mask_(model, Block(4, 4), lambda *_: True)
    assert "0 stays dense: its weight is of torch.complex64" in caplog.text
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 8), nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    half_dead(model[2])
    report = compressed(model, torch.randn(2, 8))
    assert [row.note for row in report.rows][:2] == ["without weights: left as it is"] * 2


def test_names_that_are_taken_stay_the_users(caplog):
    convs = [nn.Conv2d(8, 8, 1) for _ in range(4)]
    model, x = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), *convs), torch.randn(1, 8, 2, 2)
    model[0].pattern, model[2].scores, model[1].layer = "mine", nn.Parameter(torch.ones(3)), 7
    model[3].register_buffer("index", torch.arange(3))
    kept = model[2].scores, model[3].index
    assert list(mask_(model, Block(4, 4), lambda *_: True)) == ["4", "5"]
    assert "0 stays dense: its own pattern would be overwritten" in caplog.text
    unmask_(model)
    model[5].format = "mine"
    compressed(half_dead(model[4]) and half_dead(model[5]) and model.eval(), x)
    assert (model[0].pattern, model[1].layer, model[5].format) == ("mine", 7, "mine")
    assert (model[2].scores, model[3].index) == kept


@torch.no_grad()
def test_under_autocast_weights_are_read_as_they_are_by_now():
    model, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(3, 16)
    model[0].weight[:4], model[0].bias[:4] = 0, 0
    expected = model(x)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):  # which keeps what it has cast, of what learns
        slim_(model, x)
        assert_close("y", model(x), expected, torch.bfloat16)
    assert model[0].out_features == 12
    assert_close("y", model(x), expected, x.dtype)
