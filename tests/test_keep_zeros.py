"""``mask_from_zeros_``: zeros stay while a pruned model trains on, whoever made them, whatever the optimizer is."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from smart_kernels import NM, Block, Channel, mask_from_zeros_, masked_layers, unmask_
from smart_train import SmartPruner


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 64), nn.ReLU(), nn.Linear(64, 64)
    )


def train(model, optimizer, steps=3):
    for _ in range(steps):
        model(torch.randn(4, 8, 4, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def zeros(model) -> dict[str, torch.Tensor]:
    return {name: p == 0 for name, p in model.named_parameters() if name.endswith("weight") and (p == 0).any()}


@pytest.mark.parametrize("pattern", [Block(8, 8), Block(8, 4, "all"), NM(2, 4), Channel(), Block(1, 1)], ids=str)
def test_the_optimizer_of_the_search_goes_on(pattern):
    model = net()
    pruner = SmartPruner(model, pattern, None if pattern == NM(2, 4) else 0.6, search_steps=3)
    optimizer = torch.optim.AdamW([{"params": pruner.weights()}, pruner.param_group()], lr=0.1)
    for _ in range(4):
        pruner.step()
        train(model, optimizer, 1)
    pruner.finalize()
    before = zeros(model)
    x = torch.randn(4, 8, 4, 4)
    wanted = model(x)
    layers = mask_from_zeros_(model)
    torch.testing.assert_close(model(x), wanted)
    train(model, optimizer)
    shown = {f"{name}.weight": layer.weight == 0 for name, layer in layers.items()}
    assert shown.keys() == before.keys() and all(torch.equal(shown[name], before[name]) for name in before)
    unmask_(model)
    assert all(torch.equal(zeros(model)[name], before[name]) for name in before)


def test_without_it_the_zeros_are_lost():
    """Momentum moves a pruned weight although its gradient was 0 all along, which is what the verb is for."""
    layer = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.randn(4, 64)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        layer[0].weight[:32] = 0
    optimizer.step()
    assert (layer[0].weight[:32] != 0).any()


def test_masks_of_torch_prune_come_in_and_go_out():
    model = net()
    prune.l1_unstructured(model[3], "weight", 0.5)
    before = model[3].weight == 0
    assert list(mask_from_zeros_(model)) == ["3"] and not prune.is_pruned(model[3])
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    unmask_(model)
    assert torch.equal(model[3].weight == 0, before)
    prune.custom_from_mask(model[3], "weight", model[3].weight != 0)  # the way out
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model[3].weight == 0, before)


def test_averages_keep_the_zeros():
    model = net()
    with torch.no_grad():
        model[3].weight[:, :128] = 0
    before = model[3].weight == 0
    mask_from_zeros_(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        train(model, optimizer, 1)
        average.update_parameters(model)
    unmask_(average.module)
    assert torch.equal(average.module[3].weight == 0, before)
    assert not torch.equal(average.module[3].weight, model[3].weight)


def test_a_tile_where_it_explains_all_zeros_else_single_weights():
    model = net()
    with torch.no_grad():
        model[3].weight[:, :128] = 0
        model[5].weight[:32, :32] = 0
        model[5].weight[40, 40] = 0
    layers = mask_from_zeros_(model, lambda module, name: name != "0")
    assert {name: str(layer.pattern) for name, layer in layers.items()} == {"3": "block:64x128", "5": "block:1x1"}
    assert not any(layer.scores.requires_grad for layer in layers.values())


def test_a_model_without_zeros_is_refused_and_left_as_it_was():
    model = net()
    prune.identity(model[3], "weight")
    with pytest.raises(ValueError, match=r"needs an nn.Linear or a convolution with zeros in its weight, got none"):
        mask_from_zeros_(model)
    assert prune.is_pruned(model[3]) and not masked_layers(model)


def test_tied_weights_and_attention():
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    model = nn.Sequential(first, nn.TransformerEncoderLayer(64, 4, 64, batch_first=True), second)
    with torch.no_grad():
        first.weight[:32] = 0
        model[1].self_attn.in_proj_weight[:32] = 0
    layers = mask_from_zeros_(model)
    assert {"0", "2", "1.self_attn.q_proj"} <= layers.keys()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 4, 64)).sum().backward()
    optimizer.step()
    unmask_(model)
    assert (first.weight[:32] == 0).all() and first.weight is second.weight
    assert (model[1].self_attn.q_proj.weight[:32] == 0).all()
