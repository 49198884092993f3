"""``mask_`` and ``unmask_`` on whole models."""

import copy
import logging

import pytest
import torch
from torch import nn

from smart_kernels.convert import mask_, masked_layers, unmask_
from smart_kernels.nn import HardGate, MaskedBatchNorm2d, MaskedLinear, SoftGate, SplitAttention
from smart_kernels.patterns import NM, Block, Channel


def gate_all(model, density=0.5):
    for layer in masked_layers(model).values():
        layer.gate = HardGate((torch.rand_like(layer.scores) < density).float())


def mlp():
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def test_default_filter_leaves_stem_depthwise_head_and_small_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.Conv2d(64, 8, 1),
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.Linear(64, 10),
    )
    assert list(mask_(model, Block(16, 16))) == ["2", "5"]


def test_the_only_linear_behind_convolutions_is_the_head():
    model = nn.Sequential(nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 10))
    assert list(mask_(model, Channel())) == ["0"]


def test_filter_gets_module_and_name():
    model = mlp()
    assert list(mask_(model, Block(8, 8), lambda module, name: name == "2")) == ["2"]


def test_layers_may_carry_different_patterns():
    model = mlp()
    mask_(model, Block(8, 8), lambda module, name: name == "0")
    mask_(model, NM(2, 4), lambda module, name: name in ("0", "2"))
    assert [str(layer.pattern) for layer in masked_layers(model).values()] == ["block:8x8", "nm:2:4"]


def test_nothing_to_prune_is_an_error():
    with pytest.raises(ValueError, match=r"at least one nn\.Linear or convolution"):
        mask_(nn.Sequential(nn.ReLU()), Block(8, 8))
    model = mlp()
    layers = mask_(model, Block(8, 8))
    with pytest.raises(ValueError, match=f"got none; {len(layers)} layers are masked already"):
        mask_(model, Block(8, 8))


def test_unmask_leaves_plain_layers_with_exact_zeros():
    model, x = mlp(), torch.randn(4, 32)
    mask_(model, Block(8, 8))
    gate_all(model)
    expected = model(x)
    unmask_(model)
    assert [type(layer) for layer in model if isinstance(layer, nn.Linear)] == [nn.Linear] * 3
    assert set(model.state_dict()) == set(mlp().state_dict())
    torch.testing.assert_close(model(x), expected)
    assert model[0].weight.unflatten(0, (-1, 8)).unflatten(2, (-1, 8)).abs().sum((1, 3)).eq(0).any()


def test_unmask_refuses_a_soft_mask():
    model = mlp()
    for layer in mask_(model, Block(8, 8)).values():
        layer.gate = SoftGate((layer.scores / 0.1).sigmoid())
    with pytest.raises(ValueError, match="must be hard"):
        unmask_(model)


def test_tied_weights_share_their_scores_and_stay_tied():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    model[1].weight = model[0].weight
    mask_(model, Block(8, 8))
    assert model[0].scores is model[1].scores
    assert len([name for name, _ in model.named_parameters() if name.endswith("scores")]) == 1
    gate = HardGate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    model[0].gate = model[1].gate = gate
    unmask_(model)
    assert model[0].weight is model[1].weight
    assert model[0].weight[:8, 8:].eq(0).all()


def test_a_weight_shared_with_an_embedding_stays_dense(caplog):
    model = nn.Sequential(nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 4))
    model[2].weight = model[0].weight
    with caplog.at_level(logging.WARNING):
        assert list(mask_(model, Block(8, 8))) == ["1"]
    assert "2 stays dense: its weight is also used by 0" in caplog.text


def encoder_layer(**kwargs):
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, **kwargs)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_agrees_in_train_and_eval(norm_first):
    model, x = encoder_layer(norm_first=norm_first), torch.randn(3, 5, 32)
    dense = model.eval()(x)
    mask_(model, Block(8, 8), lambda module, name: True)
    torch.testing.assert_close(model.eval()(x), dense)
    gate_all(model)
    assert isinstance(model.self_attn, SplitAttention)
    with torch.no_grad():
        in_train, in_eval = model.train()(x), model.eval()(x)
        unmask_(model)
        torch.testing.assert_close(in_train, in_eval)
        torch.testing.assert_close(model(x), in_eval)
    assert not torch.allclose(in_eval, dense)


def test_fast_path_sees_the_mask_of_a_layer_it_never_calls():
    model, x = encoder_layer().eval(), torch.randn(3, 6, 32)
    mask_(model, Block(8, 8), lambda module, name: name in ("linear1", "linear2"))
    gate_all(model)
    assert isinstance(model.self_attn, nn.MultiheadAttention)  # untouched, so the fast path is taken
    with torch.no_grad():
        fast = model(x)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            torch.testing.assert_close(fast, model(x), rtol=1e-4, atol=1e-5)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("kwargs", [{}, {"kdim": 12, "vdim": 20}, {"bias": False}], ids=["same", "cross", "no-bias"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_split_attention_equals_the_original(kwargs, need_weights):
    attention = nn.MultiheadAttention(32, 4, batch_first=True, **kwargs).eval()
    split = SplitAttention.from_attention(attention)
    query = torch.randn(2, 5, 32)
    key, value = torch.randn(2, 7, kwargs.get("kdim", 32)), torch.randn(2, 7, kwargs.get("vdim", 32))
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[:, -2:] = True
    causal = torch.ones(5, 7, dtype=torch.bool).triu(1)
    arguments = dict(key_padding_mask=padding, attn_mask=causal, need_weights=need_weights)
    for got, expected in zip(
        split(query, key, value, **arguments), attention(query, key, value, **arguments), strict=True
    ):
        if expected is not None:
            torch.testing.assert_close(got, expected)


def test_split_attention_loads_a_dense_checkpoint():
    model, other = encoder_layer().eval(), encoder_layer().eval()
    mask_(other, Block(8, 8), lambda module, name: True)
    missing = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(key.endswith("scores") for key in missing.missing_keys)
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(other(x), model(x))


def cnn():
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))


def test_channel_mask_acts_behind_the_batchnorm():
    model, x = cnn(), torch.randn(4, 8, 6, 6)
    mask_(model, Channel())
    conv, batchnorm = model[0], model[1]
    assert isinstance(batchnorm, MaskedBatchNorm2d)
    conv.gate = SoftGate(((conv.scores - conv.scores.median().detach()) / 0.05).sigmoid())
    factor = conv.channel_mask().view(1, -1, 1, 1)
    plain = copy.deepcopy(batchnorm)
    plain.__dict__["layer"].gate = None
    torch.testing.assert_close(model[:2](x), plain(conv._conv_forward(x, conv.raw_weight, conv.raw_bias)) * factor)


def test_dead_channel_is_exactly_zero_while_pruning_and_after():
    model, x = cnn(), torch.randn(4, 8, 6, 6)
    mask_(model, Channel())
    gate_all(model)
    dead = model[0].gate.mask[:, 0] == 0
    for mode in (True, False):
        assert model.train(mode)[:2](x)[:, dead].eq(0).all()
    expected = model(x)
    unmask_(model)
    assert model[:2](x)[:, dead].eq(0).all()
    assert type(model[1]) is nn.BatchNorm2d
    torch.testing.assert_close(model(x), expected)


def test_masked_model_deepcopies_and_keeps_its_class():
    model = mlp()
    mask_(model, Block(8, 8))
    gate_all(model)
    twin, x = copy.deepcopy(model), torch.randn(2, 32)
    assert isinstance(twin[0], MaskedLinear)
    assert twin(x).equal(model(x))
