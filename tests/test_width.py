"""The width of residual streams: norms are over live channels while they are pruned, narrower plain ones afterwards."""

import copy
import io
import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import Channel, compress_, load, mask_, masked_layers, parse, save, slim_
from smart_kernels.convert.channels.norms import kind_of
from smart_kernels.nn import LiveNorm, NormKind, live_norm
from smart_train import OneShotPruner, SmartPruner

D, L = 32, 6
WIDTH = Channel(width=True)


class RMSNorm(nn.Module):
    """One as people write it; ``shift`` as in Gemma, ``size`` as in norms that know theirs."""

    def __init__(self, shift=0.0, size=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D) - shift)
        self.variance_epsilon, self.shift, self.size = 1e-3, shift, size

    def forward(self, hidden):
        variance = hidden.pow(2).sum(-1, keepdim=True) / (self.size or hidden.shape[-1])
        return (self.weight + self.shift) * (hidden * torch.rsqrt(variance + self.variance_epsilon))


class Layer(nn.Module):
    def __init__(self, norm, post):
        super().__init__()
        self.first, self.second, self.post = norm(), norm(), post
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def attend(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, -1, 8).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x):
        if self.post:
            x = self.first(x + self.attend(x))
            return self.second(x + self.down(F.gelu(self.up(x))))
        x = x + self.attend(self.first(x))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Model(nn.Module):
    """Embeds tokens and their places behind a first one, has two layers, and a norm in front of them or behind."""

    def __init__(self, norm=lambda: nn.LayerNorm(D), post=False):
        super().__init__()
        self.tokens, self.first = nn.Embedding(20, D), nn.Parameter(torch.randn(1, 1, D))
        self.places = nn.Parameter(torch.randn(1, L + 1, D))
        self.layers = nn.Sequential(*(Layer(norm, post) for _ in range(2)))
        self.norm, self.head, self.post = norm(), nn.Linear(D, 3), post

    def forward(self, ids):
        x = torch.cat([self.first.expand(len(ids), -1, -1), self.tokens(ids)], 1) + self.places
        return self.head((self.layers(self.norm(x)) if self.post else self.norm(self.layers(x))).mean(1))


def made(**settings):
    torch.manual_seed(0)
    model = Model(**settings).eval()
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None and p.dim() == 1:
                nn.init.normal_(p, 0.5, 0.2)
    return model, torch.arange(2 * L).view(2, L)


def norms(model):
    return [module for module in model.modules() if isinstance(module, LiveNorm)]


def pruned(model, x, pruner=OneShotPruner):
    pruner = pruner(model, WIDTH, 0.5, search_steps=1, example_input=x)
    assert len(norms(model)) == 5
    pruner.harden()
    pruner.finalize()
    return model.eval()


KINDS = {
    "layer": lambda: nn.LayerNorm(D),
    "no-bias": lambda: nn.LayerNorm(D, bias=False),
    "rms": lambda: nn.RMSNorm(D, eps=1e-4),
    "by-hand": RMSNorm,
    "shifted": lambda: RMSNorm(1.0),
}


@pytest.mark.parametrize("post", [False, True], ids=["pre", "post"])
@pytest.mark.parametrize("norm", KINDS.values(), ids=KINDS)
def test_half_of_the_width_leaves(norm, post):
    model, x = made(norm=norm, post=post)
    before = sum(p.numel() for p in model.parameters())
    pruned(model, x)
    with torch.no_grad():
        expected = model(x)
        slim_(model, x)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    width = model.tokens.embedding_dim
    assert width == model.head.in_features == model.places.shape[-1] == len(model.norm.weight) < D
    assert sum(p.numel() for p in model.parameters()) < 0.5 * before
    assert {type(module) for module in model.modules()} == {type(module) for module in Model(norm).modules()}
    assert getattr(model.norm, "normalized_shape", (width,)) == (width,)


def test_a_search_learns_which_and_training_goes_on():
    model, x = made()
    pruner = SmartPruner(model, WIDTH, 0.5, search_steps=4, example_input=x)
    optimizer = torch.optim.SGD([{"params": pruner.weights()}, pruner.param_group()], lr=0.1)
    first = {id(p): p.detach().clone() for p in pruner.parameters()}
    for _ in range(6):
        pruner.step()
        F.cross_entropy(model(x), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(first[id(p)], p) for p in pruner.parameters())
    pruner.finalize()
    F.cross_entropy(model(x), torch.tensor([0, 1])).backward()  # finetuning before it is slimmed
    dead = ~model.norm.live
    assert dead.any() and not model.norm.weight.grad[dead].any() and not model.layers[1].down.weight[dead].any()
    expected = model.eval()(x)
    slim_(model, x)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("kind", [NormKind(True, 1e-3), NormKind(False, 1e-3, 1.0)], ids=["layer", "rms"])
def test_a_norm_over_live_channels_is_that_of_the_smaller_model(kind):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*size, 8, generator=generator, dtype=torch.double) for size in ((2, 3), (), ()))
    live = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    x[..., ~live] = torch.nan  # not read
    y = live_norm(x, w, b, live, kind)
    small = x[..., live]
    centred = small - small.mean(-1, keepdim=True) if kind.centred else small
    exact = centred / (centred.pow(2).mean(-1, keepdim=True) + kind.eps).sqrt() * (w + kind.shift)[live] + b[live]
    torch.testing.assert_close(y[..., live], exact)
    assert not y[..., ~live].any()
    soft = torch.rand(8, generator=generator, dtype=torch.double)
    inputs = [t.nan_to_num().requires_grad_() for t in (x, w, b, soft)]
    assert torch.autograd.gradcheck(lambda *tensors: live_norm(*tensors, kind), inputs)


def test_norms_are_known_by_what_they_compute():
    other = nn.LayerNorm(D)
    other.forward = lambda x: x
    unlike = [
        nn.LayerNorm((2, D)),
        nn.LayerNorm(D, elementwise_affine=False),
        nn.GroupNorm(1, D),
        nn.BatchNorm1d(D),
        other,
    ]
    assert not any(map(kind_of, [*unlike, nn.PReLU(D), nn.Linear(1, D, False), RMSNorm(size=D)]))
    assert kind_of(nn.LayerNorm(D, eps=1e-3)) == NormKind(True, 1e-3)
    assert kind_of(RMSNorm(1.0)) == NormKind(False, 1e-3, 1.0)


def test_norms_that_lose_nothing_stay_plain(caplog):
    """The model returns the stream, or a size is written into a norm: only what is inside of layers goes."""
    model, x = made()
    model.head = nn.Identity()
    layers = mask_(model, WIDTH, example_input=x)
    assert not norms(model) and any("up" in name for name in layers) and not any("down" in name for name in layers)
    model, x = made(norm=lambda: RMSNorm(size=D))
    assert mask_(model, WIDTH, example_input=x) and not norms(model)
    assert "layers.0.out stays dense" in caplog.text


def test_a_size_taken_from_the_stream_makes_it_stay(caplog):
    model, x = made()
    for layer in model.layers:
        layer.attend = partial(attend_as_wide, layer)
    layers = mask_(model, WIDTH, example_input=x)
    assert [*layers] == ["layers.0.up", "layers.1.up"] and not norms(model)
    assert "channels stay that reach in layers.0: the model does not run with fewer" in caplog.text


def attend_as_wide(self, x):
    q, k, v = self.qkv(x).view(*x.shape[:2], 3, -1, 8).permute(2, 0, 3, 1, 4)
    return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


def test_saved_copied_compiled_and_loaded(tmp_path):
    model, x = made()
    pruned(model, x)
    expected = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
    again = copy.deepcopy(model)
    torch.testing.assert_close(again(x), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    report = compress_(again, x, backends=("dense",), seconds=0)
    with pytest.raises(ValueError, match=r"a file holds plain norms, got layers.0.first, .* call slim_"):
        save(again, tmp_path, report)
    slim_(model, x)
    save(model, tmp_path, compress_(model, x, backends=("dense",), seconds=0))
    dense = made()[0]
    load(dense, tmp_path)
    torch.testing.assert_close(dense(x), expected)


def test_put_back_when_it_fails(monkeypatch):
    model, x = made()
    kinds = [type(module) for module in model.modules()]
    state, attributes = copy.deepcopy(model.state_dict()), [{*vars(module)} for module in model.modules()]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("smart_kernels.convert.mask.settle_norms_", lambda model: 1 / 0)
        mask_(model, WIDTH, example_input=x)
    assert kinds == [type(module) for module in model.modules()] and not masked_layers(model)
    assert attributes == [{*vars(module)} for module in model.modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    pruned(model, x)
    alive, expected = [norm.live for norm in norms(model)], model(x)
    monkeypatch.setattr("smart_kernels.convert.modules.Outputs.changed", lambda *_: "a difference")
    with pytest.raises(ValueError, match="a difference"):
        slim_(model, x)
    assert all(norm.live is live for norm, live in zip(norms(model), alive, strict=True))
    torch.testing.assert_close(model(x), expected)


def test_typical_mistakes(caplog):
    model, x = made()
    with pytest.raises(
        ValueError, match=r"Channel\(width=True\) prunes channels that many layers share: example_input must"
    ):
        mask_(model, WIDTH)
    with pytest.raises(ValueError, match="Channel width must be True or False, got 16"):
        Channel(16)
    with pytest.raises(ValueError, match="must be written channel\\[:width\\]"):
        parse("channel:16")
    assert parse("channel:width") == WIDTH and str(WIDTH) == "channel:width" and parse("channel") == Channel()
    with caplog.at_level(logging.WARNING, logger="smart_kernels"):
        mask_(model, Channel(), example_input=x)
    assert "layers.1.down stays dense: its channels cannot be removed" in caplog.text
