"""Heads of attentions leave a model as whole channels do, and the head of a model is told from a block that repeats."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import Channel, mask_, slim_
from smart_kernels.convert.modules import head_of
from smart_train import OneShotPruner

D, L = 8, 6  # of a head, tokens


class Attention(nn.Module):
    """Self-attention as people write it: fused or not, several queries for a key, rotated, with a bias of each head."""

    def __init__(self, heads=4, keys=4, fused=False, rotated=False, by_hand=False, biased=False):
        super().__init__()
        self.keys, self.fused, self.rotated, self.by_hand = keys, fused, rotated, by_hand
        sizes = {"qkv": 3 * heads * D} if fused else {"q": heads * D, "k": keys * D, "v": keys * D}
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(32, size))
        self.out = nn.Linear(heads * D, 32)
        self.bias = nn.Embedding(2 * L, heads) if biased else None

    def forward(self, x):
        if self.fused:
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, -1, D).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (layer(x).view(*x.shape[:2], -1, D).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.rotated:
            q, k = rotate(q), rotate(k)
        repeats = q.shape[1] // k.shape[1]
        k, v = (t[:, :, None].expand(-1, -1, repeats, -1, -1).flatten(1, 2) for t in (k, v))
        y = attend(q, k, v, self.mask(x)) if self.by_hand else F.scaled_dot_product_attention(q, k, v, self.mask(x))
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))

    def mask(self, x):
        if self.bias is None:
            return None
        places = torch.arange(x.shape[1])
        return self.bias(places[:, None] - places + L).permute(2, 0, 1).unsqueeze(0)


def rotate(x):
    angle = torch.arange(L)[:, None] * torch.ones(D)
    low, high = x[..., : D // 2], x[..., D // 2 :]
    return x * angle.cos() + torch.cat((-high, low), -1) * angle.sin()


def attend(q, k, v, mask):
    scores = torch.matmul(q, k.transpose(2, 3)) * D**-0.5
    return torch.matmul(F.dropout((scores if mask is None else scores + mask).softmax(-1), 0.1, False), v)


class Model(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 32), nn.Linear(32, 3)
        self.attention, self.norm = Attention(**settings), nn.LayerNorm(32)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.attention(self.norm(x))).mean(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"by_hand": True},
        {"rotated": True},
        {"keys": 2},
        {"keys": 2, "rotated": True, "by_hand": True},
        {"fused": True},
        {"fused": True, "rotated": True, "by_hand": True},
        {"biased": True},
        {"biased": True, "by_hand": True},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_half_of_the_heads_leave(settings):
    torch.manual_seed(0)
    model, x = Model(**settings).eval(), torch.randn(2, L, 5)
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    names = {"qkv"} if settings.get("fused") else {"q", "k", "v"}
    pruner.harden()
    pruner.finalize()
    with torch.no_grad():
        expected = model.eval()(x)
        slimmed = slim_(model, x)
        torch.testing.assert_close(model(x), expected)
    assert {f"attention.{name}" for name in names} <= slimmed.layers.keys(), str(slimmed)
    assert model.attention.out.in_features == 2 * D  # two of four heads, whole
    if settings.get("biased"):
        assert model.attention.bias.embedding_dim == 2


def test_queries_leave_with_the_key_that_they_share():
    model, x = Model(keys=2).eval(), torch.randn(2, L, 5)
    layers = mask_(model, Channel(), example_input=x)
    q, k = layers["attention.q"].index.view(4, D), layers["attention.k"].index.view(2, D)
    assert q.repeat_interleave(1, 0).tolist() == k.repeat_interleave(2, 0).tolist()
    assert len({*k.flatten().tolist()}) == 2  # one score for a key and its queries


def test_heads_of_a_transformer_of_torch():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model, x = nn.Sequential(encoder, nn.Linear(32, 3)).eval(), torch.randn(2, L, 32)
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    pruner.harden()
    pruner.finalize()
    expected = model.eval()(x)
    slim_(model, x)
    torch.testing.assert_close(model(x), expected)
    assert [each.self_attn.q_proj.out_features for each in encoder.layers] == [16, 16]


def test_a_written_down_number_of_heads_stays(caplog):
    class Fixed(Attention):
        def forward(self, x):
            q, k, v = (layer(x).view(2, L, 4, D).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, L, 4 * D))

    model, x = Model(), torch.randn(2, L, 5)
    model.attention = Fixed()
    model.extra = nn.Linear(3, 8)
    layers = mask_(nn.Sequential(model.eval(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)), Channel(), example_input=x)
    assert not any("attention" in name for name in layers)
    assert "the model does not run with fewer" in caplog.text


class Decoder(nn.Module):
    def __init__(self, blocks=2, head=None):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"fc1": nn.Linear(8, 16), "fc2": nn.Linear(16, 8)}) for _ in range(blocks)
        )
        if head is not None:
            self.head = head


@pytest.mark.parametrize(
    "model, name",
    [
        (Decoder(), None),
        (Decoder(head=nn.Linear(8, 4)), "head"),
        (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), "2"),
        (nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 2))), "1.0"),
        (nn.Sequential(nn.Linear(8, 8)), None),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)), "2"),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), None),
    ],
    ids=["repeats", "head", "layers in a row", "blocks of other sizes", "alone", "after convolutions", "none"],
)
def test_the_head_is_what_does_not_repeat(model, name):
    assert head_of(model) is (None if name is None else model.get_submodule(name))
