"""Heads of attentions leave a model as whole channels do, and the head of a model is told from a block that repeats."""

import copy
import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smart_kernels import Channel, compress_, load, mask_, save, slim_
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


class Numbered(nn.Module):
    """Self-attention that writes its sizes down, as timm's does; ``window`` and ``scale`` equal one by chance.

    What it does with its numbers besides is said by ``also``.
    """

    def __init__(self, keys=4, fused=False, table=None, also="nothing"):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim, self.also = 4, keys, D, also
        self.attn_dim, self.window, self.scale = 4 * D, 4, 4
        sizes = {"qkv": 12 * D} if fused else {"q": 4 * D, "k": keys * D, "v": keys * D}
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(32, size))
        self.fused, self.proj = fused, nn.Linear(4 * D, 32)
        self.table, self.first = nn.Parameter(torch.randn(table)) if table else None, table == (4, L)

    def forward(self, x):
        B, N, C = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q = self.q(x).view(B, N, self.num_heads, self.head_dim).transpose(1, 2)
            k = self.k(x).view((B, N, self.num_kv_heads, -1)).transpose(1, 2)
            v = self.v(x).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        q = q * {"scales": self.num_heads**-0.5, "by chance": self.scale**-0.5}.get(self.also, 1)
        if self.also == "counts":
            q = q + (x.new_zeros(self.num_heads) + torch.zeros(4)).sum()
        if self.also == "is exact" and type(self.num_heads) is not int:
            raise TypeError("no int")
        y = F.scaled_dot_product_attention(q, k, v, self.bias(N), enable_gqa=True).transpose(1, 2)
        return self.proj(y.reshape(B, N, C if self.also == "width of the input" else self.attn_dim))

    def bias(self, N):
        """Look a bias of each head up by the distance: in a table that holds the heads first, or last."""
        distance = (torch.arange(N)[:, None] - torch.arange(N)).abs()
        if self.table is None or self.first:
            return None if self.table is None else self.table[:, distance]
        return self.table[distance.flatten()].view(N, N, -1).permute(2, 0, 1).unsqueeze(0)


def numbered(**settings):
    model = Model()
    model.attention = Numbered(**settings)
    return model.eval(), torch.randn(2, L, 5)


def pruned(model, x):
    """Prune half, slim, and compare."""
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    pruner.harden()
    pruner.finalize()
    with torch.no_grad():
        expected = model.eval()(x)
        slim_(model, x)
        torch.testing.assert_close(model(x), expected)
    return expected


@pytest.mark.parametrize(
    "settings",
    [{}, {"fused": True}, {"keys": 2}, {"also": "by chance"}, {"table": (4, L)}, {"table": (L, 4), "fused": True}],
    ids=lambda settings: "-".join(map(str, settings)) or "plain",
)
def test_written_down_heads_leave_with_their_numbers(settings, tmp_path):
    torch.manual_seed(0)
    model, x = numbered(**settings)
    fresh = copy.deepcopy(model)
    expected = pruned(model, x)
    own, keys = model.attention, settings.get("keys", 4)
    assert (own.num_heads, own.attn_dim, own.proj.in_features) == (2, 2 * D, 2 * D)
    assert own.num_kv_heads == (4 if own.fused else keys // 2)
    assert own.table is None or sorted(own.table.shape) == [2, L]
    assert (own.window, own.scale, own.head_dim) == (4, 4, D) and type(own.num_heads) is type(own.window) is int
    save(model, tmp_path, compress_(model, x, backends=("dense",), seconds=0))
    load(fresh, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), expected)
    assert vars(fresh.attention).keys() == vars(own).keys() and fresh.attention.num_heads == 2


@pytest.mark.parametrize("also", ["scales", "counts", "is exact", "width of the input"])
def test_heads_stay_where_their_number_is_needed(also, caplog):
    torch.manual_seed(0)
    model, x = numbered(also=also)
    model.stem = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 32))
    pruned(model, x)
    assert (model.attention.num_heads, model.attention.attn_dim, model.attention.q.out_features) == (4, 4 * D, 4 * D)
    assert model.stem[0].out_features == 8  # the rest is slimmed as ever
    assert "in attention: the model does not run with fewer" in caplog.text


@pytest.mark.parametrize(
    "numbers, message",
    [
        (None, "must be what config.json was written with"),
        ({"attention": {"num_heads": 3}}, "must be what config.json was written with"),
        ({"attention": {"num_heads": 5}}, "slimmed to 5 and must be a number at least as large in the model, got 4"),
        ({"attention": {"heads": 2}}, "must be a number at least as large in the model, got None"),
        ({"attention": {"fused": 1}}, "must be a number at least as large in the model, got None"),
        ({"attention.q": {"in_features": 2}}, "must be a number at least as large in the model, got None"),
        ({"../attention": {"num_heads": 2}}, "must be a number at least as large in the model, got None"),
        ({"attention": {"num_heads": 0}}, "numbers.attention.num_heads must be a whole number from 1"),
        ({"attention": {"num_heads": True}}, "numbers.attention.num_heads must be a whole number from 1"),
        ({"attention": [2]}, "numbers.attention must be a table"),
    ],
)
def test_numbers_in_files_are_checked(numbers, message, tmp_path):
    model, x = numbered()
    fresh = copy.deepcopy(model)
    forged = numbers is not None and numbers != {"attention": {"num_heads": 3}}
    pruned(model, x)
    if forged:  # the tensors say so, too
        model.__dict__["_slimmed_numbers"] = numbers
    save(model, tmp_path, compress_(model, x, backends=("dense",), seconds=0))
    if not forged:
        config = json.loads((tmp_path / "config.json").read_text())
        del config["numbers"]
        (tmp_path / "config.json").write_text(json.dumps(config | ({"numbers": numbers} if numbers else {})))
    before = dict(vars(fresh.attention))
    with pytest.raises(ValueError, match=re.escape(message)):
        load(fresh, tmp_path)
    assert vars(fresh.attention) == before


def test_what_stays_is_named_once_with_the_reason(caplog):
    model = Model().eval()
    mask_(model, Channel(), lambda module, name: True, example_input=torch.randn(2, L, 5))
    reasons = dict(re.findall(r"(\S+) stays dense: its channels cannot be removed: (.*)", caplog.text))
    assert reasons == {
        "stem": "layer_norm needs all of them",
        "attention.out": "add ties them to others that stay",
        "head": "the model returns them",
    }


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
