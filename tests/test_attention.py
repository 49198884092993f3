"""``SplitAttention`` against ``nn.MultiheadAttention``, in every stage of a model's life."""

import copy
import logging
import pickle

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn
from torch.nn.utils import parametrizations

from smart_kernels.convert import compress_, load, mask_, masked_layers, save, unmask_
from smart_kernels.convert.measure import timing
from smart_kernels.nn import HardGate, Masked, MaskedLinear, SoftGate, SparseLinear, SplitAttention
from smart_kernels.patterns import NM, Block

from .util import TOLERANCE, relative_error

E, HEADS, B, L, S = 32, 4, 2, 6, 9
EVERYTHING = lambda module, name: True  # noqa: E731
KINDS = {
    "plain": {},
    "sequence first": {"batch_first": False},
    "no bias": {"bias": False},
    "other widths": {"kdim": 24, "vdim": 40},
    "other widths, no bias": {"kdim": 24, "vdim": 40, "bias": False},
    "learned key": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True, "batch_first": False},
    "both keys": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 24},
}
STAGES = ("split", "all kept", "search", "finetune", "finalized", "compressed", "loaded")


@pytest.fixture(autouse=True)
def block_sparse_wins(monkeypatch):
    """Nothing is timed."""

    def fake(candidates, *_):
        return {name: [0.5 if name == "bsr" else 1.0] * 4 for name in candidates}

    monkeypatch.setattr(timing, "time_in_turns", fake)


class Holder(nn.Module):
    """A model that passes everything on."""

    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, HEADS, **{"batch_first": True, **options})
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)  # torch starts biases at 0

    def forward(self, *args, **kwargs):
        return self.attention(*args, **kwargs)


def advance(model, stage, example_input, tmp_path, make):
    """Bring a dense model to a stage; ``make`` gives a fresh one to load into."""
    mask_(model, Block(8, 8), EVERYTHING)
    if stage == "split":
        return unmask_(model)
    gates = {}
    for layer in masked_layers(model).values():
        gate = HardGate((torch.rand_like(layer.scores) < (1 if stage == "all kept" else 0.5)).float())
        if stage == "search":
            gate = SoftGate(((layer.scores.detach() - layer.scores.detach().mean()) / 0.05).sigmoid())
        layer.gate = gates.setdefault(id(layer.scores), gate)
    if stage in ("finalized", "compressed", "loaded"):
        unmask_(model)
    if stage in ("compressed", "loaded"):
        report = compress_(model, example_input, policy="size", backends=("dense", "bsr"))
        assert any(isinstance(module, SparseLinear) for module in model.modules())
    if stage == "loaded":
        save(model, tmp_path, report)
        model = make().to(next(model.parameters()).dtype).train(model.training)
        load(model, tmp_path)
    return model


@torch.no_grad()
def dense(original, pruned):
    """The original module with the weights that the pruned one multiplies by, in float64."""
    twin = copy.deepcopy(original).double()
    for name, module in twin.named_modules():
        other = pruned.get_submodule(name)
        if isinstance(module, nn.MultiheadAttention) and isinstance(other, SplitAttention):
            parts = [getattr(other, f"{part}_proj") for part in "qkv"]
            if module.in_proj_weight is not None:
                module.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            else:
                for part, weight in zip(parts, "qkv", strict=True):
                    getattr(module, f"{weight}_proj_weight").copy_(part.weight)
            if module.in_proj_bias is not None:
                module.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        elif isinstance(module, nn.Linear):
            module.weight.copy_(other.weight)
            assert (module.bias is None) == (other.bias is None)
            if module.bias is not None:
                module.bias.copy_(other.bias)
    return twin.train(pruned.training)


def tensors(attention, batched=True, dtype=torch.float64):
    shapes = [(L, E), (S, attention.kdim), (S, attention.vdim)]
    if batched:
        shapes = [(B, *shape) if attention.batch_first else (shape[0], B, shape[1]) for shape in shapes]
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def padding(*shape):
    mask = torch.zeros(*shape, dtype=torch.bool)
    mask[..., -2:] = True
    return mask


def calls():
    """name -> whether there is a batch, arguments."""
    causal = torch.ones(L, S, dtype=torch.bool).triu(1)
    own = torch.rand(B * HEADS, L, S) < 0.3
    own[..., 0] = False
    return {
        "nothing": (True, {}),
        "padding": (True, {"key_padding_mask": padding(B, S)}),
        "added padding": (True, {"key_padding_mask": torch.randn(B, S).double()}),
        "one mask": (True, {"attn_mask": causal}),
        "one added mask": (True, {"attn_mask": torch.randn(L, S).double()}),
        "mask per head": (True, {"attn_mask": own}),
        "added mask per head": (True, {"attn_mask": torch.randn(B * HEADS, L, S).double()}),
        "both masks": (True, {"attn_mask": causal, "key_padding_mask": padding(B, S)}),
        "hint": (True, {"attn_mask": causal, "is_causal": True}),
        "hint and padding": (True, {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding(B, S)}),
        "no batch": (False, {}),
        "no batch, both masks": (False, {"attn_mask": own[:HEADS], "key_padding_mask": padding(S)}),
    }


def check(got, expected, what, dtype=torch.float64):
    assert (got is None) == (expected is None), what
    if expected is not None:
        assert got.shape == expected.shape, what
        assert relative_error(got, expected) <= TOLERANCE[dtype], what


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_call_in_every_stage(kind, stage, tmp_path):
    def make():
        return Holder(**KINDS[kind]).double()

    model = make()
    original, inputs = copy.deepcopy(model), tensors(model.attention)
    model = advance(model, stage, tuple(inputs), tmp_path, make)
    assert isinstance(model.attention, SplitAttention)
    for mode in (True, False):
        model.train(mode)
        twin = dense(original, model)
        for name, (batched, arguments) in calls().items():
            inputs = tensors(original.attention, batched)
            for more in ({"need_weights": False}, {}, {"average_attn_weights": False}):
                pairs = zip(model(*inputs, **arguments, **more), twin(*inputs, **arguments, **more), strict=True)
                for got, expected in pairs:
                    check(got, expected, (name, more))


@pytest.mark.parametrize("stage", ["split", "all kept", "finetune", "finalized", "compressed"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_draws_as_the_original_does(stage, need_weights, tmp_path):
    model = Holder(dropout=0.4).double()
    original, inputs = copy.deepcopy(model), tensors(model.attention)
    model = advance(model, stage, tuple(inputs), tmp_path, None).train()
    results = []
    for module in (model, dense(original, model)):
        torch.manual_seed(3)
        results.append(module(*inputs, need_weights=need_weights))
    for got, expected in zip(*results, strict=True):
        check(got, expected, stage)
    assert not torch.allclose(results[0][0], model.eval()(*inputs)[0])


@pytest.mark.parametrize("stage", ["split", "all kept"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_before_anything_is_pruned(kind, need_weights, stage, tmp_path):
    model = Holder(**KINDS[kind]).double()
    original, inputs = copy.deepcopy(model), tensors(model.attention)
    model = advance(model, stage, None, tmp_path, None)
    inputs.append(torch.randn(L, S).double())  # a learned position bias
    found = []
    for module in (original, model):
        leaves = [x.clone().requires_grad_() for x in inputs]
        module(*leaves[:3], attn_mask=leaves[3], need_weights=need_weights)[0].square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*found, strict=True):
        check(got, expected, "inputs")
    for name, parameter in original.attention.named_parameters():
        if name.startswith("in_proj"):
            kind = name.removeprefix("in_proj_")
            got = torch.cat([getattr(model.attention, f"{part}_proj")._parameters[kind].grad for part in "qkv"])
        else:
            owner, _, last = name.replace("_proj_weight", "_proj.weight").rpartition(".")
            got = model.attention.get_submodule(owner)._parameters[last].grad
        if name != "in_proj_bias":
            check(got, parameter.grad, name)
        else:  # softmax does not feel the bias of the keys
            torch.testing.assert_close(got, parameter.grad, rtol=1e-10, atol=1e-10)


class Own(nn.Module):
    """An encoder layer of somebody else's."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.linear = nn.MultiheadAttention(E, HEADS, batch_first=True), nn.Linear(E, E)

    def forward(self, x, src_mask=None, src_key_padding_mask=None, is_causal=False):
        x = x + self.self_attn(x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask)[0]
        return x + self.linear(x)


def layer(cls=nn.TransformerEncoderLayer, **options):
    return cls(E, HEADS, 64, **{"batch_first": True, "dropout": 0.0, **options})


CAUSAL = nn.Transformer.generate_square_subsequent_mask(L)
PADDED = {"src_key_padding_mask": padding(B, L)}
DECODED = {"tgt_mask": CAUSAL, "tgt_is_causal": True, "memory_key_padding_mask": padding(B, L)}
MODELS = {
    "encoder": (lambda: nn.TransformerEncoder(layer(), 2, enable_nested_tensor=True), 1, PADDED),
    "gelu": (lambda: nn.TransformerEncoder(layer(activation="gelu"), 2), 1, PADDED),
    "norm first": (lambda: nn.TransformerEncoder(layer(norm_first=True), 2, enable_nested_tensor=False), 1, PADDED),
    "causal": (lambda: nn.TransformerEncoder(layer(), 2), 1, {"mask": CAUSAL, "is_causal": True}),
    "encoder layer": (layer, 1, PADDED),
    "of other layers": (lambda: nn.TransformerEncoder(Own(), 2, enable_nested_tensor=False), 1, PADDED),
    "decoder": (lambda: nn.TransformerDecoder(layer(nn.TransformerDecoderLayer), 2), 2, DECODED),
    "both": (lambda: nn.Transformer(E, HEADS, 1, 1, 64, 0.0, batch_first=True), 2, {**PADDED, **DECODED}),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_in_every_stage(kind, stage, tmp_path):
    make, count, arguments = MODELS[kind]
    model = make()
    original, inputs = copy.deepcopy(model), [torch.randn(B, L, E) for _ in range(count)]
    model = advance(model, stage, tuple(inputs), tmp_path, make)
    real = ~PADDED["src_key_padding_mask"] if count == 1 and arguments is PADDED else slice(None)
    for mode in (True, False):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                expected = dense(original, model).train()(*[x.double() for x in inputs], **arguments)
                got = model.train(mode)(*inputs, **arguments)
                check(got[real], expected[real], (mode, grad), torch.float32)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("chosen", ["layers.0", "layers.1", "layers.1.linear", "layers.0.self_attn.out_proj"])
@pytest.mark.parametrize("hooked", [False, True])
def test_an_encoder_of_which_a_part_is_pruned(chosen, stage, hooked, tmp_path, monkeypatch):
    make, _, arguments = MODELS["encoder"]
    model = make()
    original, x = copy.deepcopy(model), torch.randn(B, L, E)
    monkeypatch.setitem(globals(), "EVERYTHING", lambda module, name: name.startswith(chosen))
    model = advance(model, stage, x, tmp_path, make).eval()
    if hooked:
        model.layers[1].linear1.register_forward_hook(lambda *args: None)  # torch leaves its fast path for that
    real = ~arguments["src_key_padding_mask"]
    with torch.no_grad():
        expected = dense(original, model).train()(x.double(), **arguments)
        check(model(x, **arguments)[real], expected[real], chosen, torch.float32)


def test_layers_masked_without_the_encoder_around_them_say_what_to_do():
    model, x = MODELS["encoder"][0]().eval(), torch.randn(B, L, E)
    mask_(model.layers, Block(8, 8))
    with pytest.raises(AttributeError, match="use_nested_tensor = False"), torch.no_grad():
        model(x, **PADDED)
    model.use_nested_tensor = False
    with torch.no_grad():
        assert model(x, **PADDED).shape == x.shape


def test_fast_paths_are_off_where_something_is_sparse_and_no_longer_than_that():
    model, x = MODELS["gelu"][0]().eval(), torch.randn(B, L, E)

    def switches():
        return model.use_nested_tensor, [layer.activation_relu_or_gelu for layer in model.layers]

    mask_(model, Block(8, 8), lambda module, name: name.startswith("layers.1.linear"))
    assert switches() == (True, [2, 2])  # masked weights are read like any others
    for masked in masked_layers(model).values():
        masked.gate = HardGate((torch.rand_like(masked.scores) < 0.3).float())
    unmask_(model)
    assert switches() == (True, [2, 2])
    compress_(model, x, policy="size", backends=("dense", "bsr"))
    assert switches() == (False, [2, 0])
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    compress_(model, x, backends=("dense",))
    assert switches() == (True, [2, 2])
    mask_(model, Block(8, 8), lambda module, name: name.startswith("layers.1.self_attn"))
    assert switches() == (False, [2, 2])


@pytest.mark.parametrize("stage", STAGES)
def test_nested_tensors(stage, tmp_path):
    make = Holder
    model = make()
    original, rows = copy.deepcopy(model), [torch.randn(n, E) for n in (3, L, 1)]
    model = advance(model, stage, (torch.randn(B, L, E),) * 3, tmp_path, make)
    x = torch.nested.nested_tensor(rows)
    twin = dense(original, model).float().eval()
    with torch.no_grad():
        expected, _ = twin(x, x, x, need_weights=False)
    for mode in (True, False):
        y, weights = model.train(mode)(x, x, x)
        assert weights.shape == (3, L, L)
        for got, want in zip(y.unbind(), expected.unbind(), strict=True):
            check(got, want, mode, torch.float32)
    y.unbind()[0].sum().backward()
    assert model.attention.out_proj.bias.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="must be None"):
        model(x, x, x, key_padding_mask=padding(3, L))
    with pytest.raises(ValueError, match="all be nested"):
        model(x, rows[0][None], rows[0][None])


@pytest.mark.parametrize("stage", STAGES)
def test_an_encoder_layer_takes_nested_tensors(stage, tmp_path):
    model = layer()
    original, rows = copy.deepcopy(model), [torch.randn(n, E) for n in (3, L, 1)]
    model = advance(model, stage, torch.randn(B, L, E), tmp_path, layer).eval()
    x = torch.nested.nested_tensor(rows)
    with torch.no_grad():
        expected = dense(original, model).float()(x)
        for got, want in zip(model(x).unbind(), expected.unbind(), strict=True):
            check(got, want, stage, torch.float32)


WRONG = {
    "integers": ({"attn_mask": torch.ones(L, S, dtype=torch.int64)}, "bool or floating"),
    "one row": ({"attn_mask": torch.zeros(1, S)}, r"attn_mask must be \(6, 9\) or \(8, 6, 9\)"),
    "turned": ({"key_padding_mask": torch.zeros(S, B)}, r"key_padding_mask must be \(2, 9\)"),
    "whole batch": ({"attn_mask": torch.zeros(B, L, S)}, "attn_mask must be"),
    "integer padding": ({"key_padding_mask": torch.ones(B, S, dtype=torch.uint8)}, "bool or floating"),
    "hint alone": ({"is_causal": True}, "attn_mask must be given"),
}


@pytest.mark.parametrize("case", WRONG)
def test_masks_that_would_be_added_wrongly_are_refused(case):
    split = SplitAttention.from_attention(Holder().attention)
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        split(*tensors(split, dtype=torch.float32), **arguments)


@pytest.mark.parametrize(
    "shapes", [((L, E), (B, S, E), (B, S, E)), ((B, L, E), (B, S, E), (B, 1, E)), ((1, B, L, E),) * 3]
)
def test_inputs_that_do_not_belong_together_are_refused(shapes):
    split = SplitAttention.from_attention(Holder().attention)
    with pytest.raises(ValueError, match="key and value must"):
        split(*[torch.randn(shape) for shape in shapes])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["plain", "no bias", "other widths", "learned key"])
def test_frozen_weights_stay_frozen(kind, stage, tmp_path):
    def make():
        return Holder(**KINDS[kind]).requires_grad_(False)

    model = make()
    model = advance(model, stage, tuple(tensors(model.attention, dtype=torch.float32)), tmp_path, make)
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if stage == "compressed":
        compress_(model, tuple(tensors(model.attention, dtype=torch.float32)), backends=("dense",))
        assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_one_part_may_be_frozen():
    model = Holder()
    model.attention.in_proj_bias.requires_grad_(False)
    mask_(model, Block(8, 8))
    names = {name for name, parameter in model.attention.named_parameters() if not parameter.requires_grad}
    assert names == {"q_proj.bias", "k_proj.bias", "v_proj.bias"}


class Pair(nn.Module):
    """Two holders of one attention, which a list has, too."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Holder(), Holder()
        self.second.attention = self.first.attention
        self.aside = [self.first.attention]

    def forward(self, x):
        x = x + self.first(x, x, x)[0]
        x = x + self.second(x, x, x, need_weights=False)[0]
        return x + self.aside[0](x, x, x)[0]


@pytest.mark.parametrize("stage", STAGES)
def test_one_attention_under_several_names_stays_one(stage, tmp_path):
    model, x = Pair(), torch.randn(B, L, E)
    original = copy.deepcopy(model)
    model = advance(model, stage, x, tmp_path, Pair)
    assert model.first.attention is model.second.attention is model.aside[0]
    assert len(list(model.modules())) == 8 + 2 * (stage in ("compressed", "loaded")) * 2
    twin = dense(original, model)
    check(model(x), twin(x.double()), stage, torch.float32)


@pytest.mark.parametrize("stage", STAGES)
def test_attentions_that_share_a_weight_share_it_afterwards(stage, tmp_path):
    def make():
        model = nn.ModuleDict({"a": Holder(), "b": Holder()})
        model["b"].attention.in_proj_weight = model["a"].attention.in_proj_weight
        model["b"].attention.out_proj.bias = model["a"].attention.out_proj.bias
        model.forward = lambda x: model["b"](*[model["a"](x, x, x)[0]] * 3)[0]
        return model

    model, x = make(), torch.randn(B, L, E)
    original = copy.deepcopy(model)
    model = advance(model, stage, x, tmp_path, make)
    a, b = model["a"].attention, model["b"].attention
    assert a.out_proj.bias is b.out_proj.bias and a.q_proj.bias is not b.q_proj.bias
    if stage in ("compressed", "loaded"):
        assert a.k_proj.format is b.k_proj.format
    else:
        assert a.k_proj._parameters["weight"] is b.k_proj._parameters["weight"]
    twin = dense(original, model)
    y = twin["b"](*[twin["a"](*[x.double()] * 3)[0]] * 3)[0]
    check(model["b"](*[model["a"](x, x, x)[0]] * 3)[0], y, stage, torch.float32)


def test_a_weight_shared_with_what_is_not_split_stays_whole(caplog):
    model = nn.Sequential(Holder(), Holder(), Holder(), nn.Linear(E, E), nn.Linear(E, E))
    model[1].attention.in_proj_weight = model[0].attention.in_proj_weight
    model[2].attention.in_proj_bias = model[1].attention.in_proj_bias
    with caplog.at_level(logging.WARNING):
        assert list(mask_(model, Block(8, 8), lambda module, name: name[0] in "013")) == ["3"]
    assert "1.attention stays dense: its weight is also used by 2.attention" in caplog.text
    assert "0.attention stays dense: its weight is also used by 1.attention" in caplog.text
    assert type(model[0].attention) is type(model[1].attention) is nn.MultiheadAttention


def test_the_model_may_be_an_attention():
    model = nn.MultiheadAttention(E, HEADS, batch_first=True)
    x = torch.randn(B, L, E)
    expected, same = model(x, x, x)[0], model
    assert list(mask_(model, Block(8, 8))) == ["q_proj", "k_proj", "v_proj", "out_proj"]
    torch.testing.assert_close(model(x, x, x)[0], expected)
    assert unmask_(model) is same


def pruned_weight(model):
    torch_prune.l1_unstructured(model.attention, "in_proj_weight", 0.5)


def pruned_projection(model):
    torch_prune.l1_unstructured(model.attention.out_proj, "weight", 0.5)


def parametrized(model):
    parametrizations.weight_norm(model.attention, "in_proj_weight")


def parametrized_projection(model):
    parametrizations.weight_norm(model.attention.out_proj, "weight")


def patched(model):
    original = model.attention.forward
    model.attention.forward = lambda *args, **kwargs: original(*args, **kwargs)


def subclass(model):
    class Mine(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            y, weights = super().forward(*args, **kwargs)
            return 2 * y, weights

    model.attention = Mine(E, HEADS, batch_first=True)


def own_projection(model):
    class Low(nn.Linear):
        pass

    model.attention.out_proj = Low(E, E)


LEFT = {
    pruned_weight: "computed from others",
    pruned_projection: "computed from others",
    parametrized: "ParametrizedMultiheadAttention is a subclass",
    parametrized_projection: "out_proj is a Parametrized",
    patched: "forward has been replaced",
    subclass: "Mine is a subclass of nn.MultiheadAttention",
    own_projection: "out_proj is a Low",
}


@pytest.mark.parametrize("change", LEFT, ids=lambda change: change.__name__)
def test_what_cannot_be_split_is_left_alone_with_one_line(change, caplog):
    model, x = nn.ModuleList([Holder(), nn.Linear(E, E), nn.Linear(E, E)]), torch.randn(B, L, E)
    change(model[0])
    expected, before = model[0](x, x, x)[0], list(model[0].modules())
    with caplog.at_level(logging.WARNING):
        assert list(mask_(model, Block(8, 8))) == ["1"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("0.attention stays dense") and LEFT[change] in line
    assert list(model[0].modules()) == before
    torch.testing.assert_close(model[0](x, x, x)[0], expected)
    caplog.clear()
    mask_(nn.ModuleList([model[0], nn.Linear(E, E)]), Block(8, 8), lambda module, name: name == "1")
    assert not caplog.records  # nobody asked for it


@pytest.mark.parametrize("stage", STAGES[:-2])
def test_what_hangs_on_the_module_stays_on_it(stage, tmp_path):
    model = Holder(dropout=0.1)
    attention, out, seen = model.attention, model.attention.out_proj, []
    weight, attention.note = out.weight, "kept"
    attention.eval()
    attention.register_forward_hook(lambda *args: seen.append("after"))
    attention.register_forward_pre_hook(lambda *args: seen.append("before"), with_kwargs=True)
    handle = attention.register_full_backward_hook(lambda *args: seen.append("backward"))
    model = advance(model, stage, None, tmp_path, None)
    assert model.attention is attention and attention.note == "kept"
    assert attention.out_proj is out and out._parameters["weight"] is weight
    assert model.training and not any(module.training for module in attention.modules())
    read = (attention.embed_dim, attention.num_heads, attention.head_dim, attention.batch_first, attention.dropout)
    assert read == (E, HEADS, E // HEADS, True, 0.1) and (attention.kdim, attention.vdim) == (E, E)
    x = torch.randn(B, L, E, requires_grad=True)
    model(x, x, x)[0].sum().backward()
    assert seen == ["before", "after", "backward"]
    handle.remove()
    model(x, x, x)[0].sum().backward()
    assert seen.count("backward") == 1
    for name in ("in_proj_weight", "q_proj_weight"):
        assert not hasattr(attention, name)
        with pytest.raises(AttributeError, match=f"no {name}: its weights are those of q_proj"):
            getattr(attention, name)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = attention.other


def test_a_split_attention_of_its_own():
    split = SplitAttention(E, HEADS, 0.0, True)
    assert list(split.state_dict()) == [f"{n}_proj.{k}" for n in ("q", "k", "v", "out") for k in ("weight", "bias")]
    x = torch.randn(B, L, E)
    assert split(x, x, x)[0].shape == x.shape


def state(model):
    """Everything that a user can hold in hand."""
    found = {}
    for name, module in model.named_modules():
        found[name] = (module, type(module), {key: repr(value) for key, value in vars(module).items() if key[0] != "_"})
        for kind in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
            found[name] += (list(getattr(module, kind).items()),)
    return found, [(id(p), p.requires_grad, p.detach().clone().sum().item()) for p in model.parameters()]


@pytest.mark.parametrize("after", range(6))
def test_a_mask_that_fails_leaves_the_model_as_it_was(after, monkeypatch):
    encoder = nn.TransformerEncoder(layer(), 1)
    model = nn.Sequential(encoder, Pair(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    calls, handle = [], model[1].first.attention.register_forward_hook(lambda *args: calls.append(1))
    before, attach, count = state(model), Masked.attach, []

    def failing(self, *args):
        count.append(self)
        if len(count) > after:
            raise RuntimeError("in the middle")
        attach(self, *args)

    monkeypatch.setattr(Masked, "attach", failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        mask_(model, Block(8, 8))
    assert state(model) == before and count
    handle.remove()
    assert not model[1].first.attention._forward_hooks


def test_a_second_mask_that_fails_leaves_the_first(monkeypatch):
    model, x = nn.ModuleList([Holder(), Holder()]), torch.randn(B, L, E)
    for masked in mask_(model, Block(8, 8), lambda module, name: name.startswith("0")).values():
        masked.gate = HardGate((torch.rand_like(masked.scores) < 0.5).float())
    before, expected = state(model), model[0](x, x, x)[0]
    monkeypatch.setattr(Masked, "attach", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mask_(model, NM(2, 4))
    assert state(model) == before and model[0](x, x, x)[0].equal(expected)


@pytest.mark.parametrize("why", ["nothing left", "filter", "example_input"])
def test_a_refusal_leaves_the_model_as_it_was(why):
    model = nn.Sequential(nn.Embedding(E, E), Holder())

    def chosen(module, name):
        if why == "filter" and name.endswith("v_proj"):
            raise KeyError(name)
        return name.endswith("out_proj")

    if why == "nothing left":
        model[0].weight = model[1].attention.out_proj.weight
    before = state(model)
    with pytest.raises((ValueError, KeyError)):
        mask_(model, Block(8, 8), chosen, 1 if why == "example_input" else None)
    assert state(model) == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies(stage, how, tmp_path):
    model = Holder(dropout=0.0)
    inputs = tensors(model.attention, dtype=torch.float32)
    model = advance(model, stage, tuple(inputs), tmp_path, Holder)
    twin = how(model)
    assert twin(*inputs)[0].equal(model(*inputs)[0])
    assert isinstance(twin.attention, SplitAttention) and list(twin.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mode", ["bf16", "autocast"])
def test_low_precision(stage, mode, tmp_path):
    model = Holder()
    original, inputs = copy.deepcopy(model), tensors(model.attention, dtype=torch.float32)
    model = advance(model, stage, tuple(inputs), tmp_path, Holder)
    arguments = {"key_padding_mask": padding(B, S), "attn_mask": torch.randn(L, S)}
    twin = dense(original, model)
    expected = twin(
        *[x.double() for x in inputs], **{k: v if v.dtype == torch.bool else v.double() for k, v in arguments.items()}
    )
    if mode == "bf16":
        model, inputs = model.bfloat16(), [x.bfloat16() for x in inputs]
    for need_weights in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            y, _ = model(*inputs, **arguments, need_weights=need_weights)
        assert y.dtype == torch.bfloat16 and relative_error(y, expected[0]) < 3e-2


@pytest.mark.parametrize("stage", ["split", "search", "finetune", "compressed"])
@pytest.mark.parametrize("kind", ["plain", "both keys"])
def test_compiles_in_one_graph(stage, kind, tmp_path):
    model = Holder(**KINDS[kind])
    inputs = tensors(model.attention, dtype=torch.float32)
    model = advance(model, stage, tuple(inputs), tmp_path, None)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for arguments in ({}, {"key_padding_mask": padding(B, S), "need_weights": False}):
        for got, expected in zip(compiled(*inputs, **arguments), model(*inputs, **arguments), strict=True):
            check(got, expected, arguments, torch.float32)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dense_checkpoints_load_into_every_kind(kind, assign):
    source, model = Holder(**KINDS[kind]), Holder(**KINDS[kind])
    inputs = tensors(source.attention, dtype=torch.float32)
    checkpoint = source.state_dict()
    keys = list(checkpoint)
    mask_(model, Block(8, 8))
    unmask_(model)
    model.load_state_dict(checkpoint, assign=assign)
    assert list(checkpoint) == keys  # the caller's dictionary is not touched
    torch.testing.assert_close(model(*inputs)[0], source(*inputs)[0])
    storages = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    assert len(set(storages)) == len(storages)


@pytest.mark.parametrize("pattern", [Block(8, 8), NM(2, 4)], ids=str)
def test_names_are_those_of_four_linears(pattern):
    model = nn.Sequential(nn.Linear(E, E), Holder())
    layers = mask_(model, pattern)
    names = [f"1.attention.{part}_proj" for part in ("q", "k", "v", "out")]
    assert list(layers) == ["0", *names] and all(type(each) is MaskedLinear for each in layers.values())
    unmask_(model)
    assert list(model[1].state_dict()) == [f"{name[2:]}.{kind}" for name in names for kind in ("weight", "bias")]
    assert [type(module) for module in model[1].attention.children()] == [nn.Linear] * 4
