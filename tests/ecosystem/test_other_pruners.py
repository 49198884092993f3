"""A model that other tools have pruned goes straight to compress_, and trains on with its zeros."""

import copy

import pytest
import timm
import torch
import torch_pruning
from timm.utils import ModelEmaV3
from torch import nn

from smart_kernels import Block, SparseLinear, compress_, mask_, mask_from_zeros_, unmask_
from smart_train import SmartPruner


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8)).eval()


def wanda_(linear: nn.Linear, x: torch.Tensor, n: int = 2, m: int = 4) -> None:
    """Keep n of every m weights of a row by |W| times the norm of their input (arXiv 2306.11695)."""
    score = linear.weight.detach().abs() * x.norm(dim=0)
    drop = score.unflatten(1, (-1, m)).argsort(-1)[..., : m - n]
    mask = torch.ones_like(score.unflatten(1, (-1, m))).scatter_(-1, drop, 0).flatten(1)
    linear.weight.data *= mask


def sparsegpt_(linear: nn.Linear, x: torch.Tensor, sparsity: float = 0.5) -> None:
    """Remove weights column by column and let the rest make up for them (arXiv 2301.00774)."""
    hessian = x.double().T @ x.double() + 0.01 * torch.eye(x.shape[1], dtype=torch.double)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    weight = linear.weight.detach().double().clone()
    score = weight**2 / inverse.diagonal() ** 2
    drop = score <= score.flatten().kthvalue(int(sparsity * score.numel())).values
    for column in range(weight.shape[1]):
        error = torch.where(drop[:, column], weight[:, column], 0) / inverse[column, column]
        weight[:, column:] -= error[:, None] * inverse[column, column:]
        weight[drop[:, column], column] = 0
    linear.weight.data.copy_(weight)


@pytest.mark.parametrize(("prune", "form"), [(wanda_, "nm"), (sparsegpt_, "dense")], ids=["wanda", "sparsegpt"])
def test_results_of_layerwise_methods(prune, form):
    """Single weights at 50 % have no form that is worth it: such a layer stays dense, and says how much is left."""
    model, x = mlp(), torch.randn(256, 64)
    with torch.no_grad():
        for layer in model[:4]:
            if isinstance(layer, nn.Linear):
                prune(layer, x)
            x = layer(x)
    example = torch.randn(16, 64)
    wanted = model(example)
    report = compress_(model, example, policy="size", backends=("dense", "nm"), seconds=0)
    torch.testing.assert_close(model(example), wanted, rtol=1e-4, atol=1e-5)
    assert [row.choice for row in report.rows[:2]] == [form, form]
    assert all(abs(row.kept - 0.5) < 0.01 for row in report.rows[:2])


def test_what_torch_pruning_has_cut_is_a_smaller_model_for_us():
    model = timm.create_model("resnet18", num_classes=10).eval()
    example = torch.randn(1, 3, 64, 64)
    settings = {"importance": torch_pruning.importance.MagnitudeImportance(), "pruning_ratio": 0.5}
    torch_pruning.pruner.MetaPruner(model, example, ignored_layers=[model.fc], **settings).step()
    with pytest.raises(ValueError, match=r"needs an nn\.Linear or a convolution with zeros in its weight, got none"):
        mask_from_zeros_(model)  # what is cut out left no zeros to hold
    SmartPruner(model, Block(16, 16, "all"), 0.75, search_steps=1).finalize()
    wanted = model(example)
    report = compress_(model, example, policy="size", backends=("dense", "bsr"), seconds=0)
    torch.testing.assert_close(model(example), wanted, rtol=1e-3, atol=1e-4)
    assert sum(row.choice == "bsr" for row in report.rows) > 10


def test_timms_average_keeps_the_zeros():
    model = mlp()
    with torch.no_grad():
        model[2].weight[:64] = 0
    mask_from_zeros_(model)
    average = ModelEmaV3(model, decay=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(3):
        model(torch.randn(4, 64)).sum().backward()
        optimizer.step()
        average.update(model, step=step)
    unmask_(average.module)
    assert (average.module[2].weight[:64] == 0).all() and (average.module[2].weight[64:] != 0).all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "mixer_s32_224"])
def test_stem_and_head_of_timms_models_stay(name):
    model = timm.create_model(name, num_classes=10)
    masked = set(mask_(model, Block(16, 16)))
    modules = dict(model.named_modules())
    head = model.get_classifier()
    assert masked and not any(modules[each] is head for each in masked)
    assert not any("stem" in each and getattr(modules[each], "in_channels", 4) == 3 for each in masked)
    assert all(getattr(modules[each], "groups", 1) == 1 for each in masked)


def _accelerated(model, pruner, weights, *, every):
    """Train with two batches for an optimizer step, and step() of the pruner with every one or two of them."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(weights, lr=1e-3))
    for batch in range(20):
        if batch % every == 0:
            pruner.step()
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(torch.randn(4, 64)).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    return optimizer


def test_accelerate_prepares_a_masked_model():
    model = mlp().train()
    pruner = SmartPruner(model, Block(16, 16), 0.5, search_steps=4)
    _accelerated(model, pruner, [{"params": pruner.weights()}, pruner.param_group()], every=2)
    assert pruner.finalize()["step"] == 10
    compress_(model.eval(), torch.randn(4, 64), policy="size", backends=("dense", "bsr"), seconds=0)
    assert any(isinstance(module, SparseLinear) for module in model)


def test_mistakes_with_accelerate():
    model = mlp().train()
    pruner = SmartPruner(model, Block(16, 16), 0.5, search_steps=40)
    with pytest.warns(UserWarning, match=r"step\(\) must come once per optimizer step, got two or more"):
        _accelerated(model, pruner, [{"params": pruner.weights()}, pruner.param_group()], every=1)
    model = mlp().train()
    weights = [*model.parameters()]  # before the pruner
    pruner = SmartPruner(model, Block(16, 16), 0.5, search_steps=40)
    with pytest.warns(UserWarning, match="the scores never change while the weights do: no optimizer has them"):
        _accelerated(model, pruner, weights, every=2)
    model = mlp().train()
    pruner = SmartPruner(model, Block(16, 16), 0.5, search_steps=8)
    optimizer = _accelerated(model, pruner, [{"params": pruner.weights()}, pruner.param_group()], every=2)
    pruner.finalize()
    with pytest.warns(UserWarning, match="pruned weights come back: train before finalize"):
        for _ in range(2):
            model(torch.randn(4, 64)).square().mean().backward()
            optimizer.step()


def test_command_line_with_models_of_timm_and_transformers(tmp_path, monkeypatch):
    from transformers import ViTConfig, ViTForImageClassification

    from smart_train.cli import main
    from smart_train.run import prune

    monkeypatch.setattr(prune, "PATIENCE", 0.0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1)).save_pretrained(
        tmp_path / "vit"
    )
    steps = ["--dense-steps", "2", "--search-steps", "3", "--finetune-steps", "2", "--batch", "16"]
    for name in ("timm:test_resnet", f"hf:{tmp_path / 'vit'}"):
        out = str(tmp_path / name.partition(":")[0])
        task = ["--model", name, "--data", "digits", "--pattern", "block:8x8", "--sparsity", "0.5", *steps]
        assert main(["prune", *task, "--out", out]) == 0
        assert main(["run", out]) == 0


def test_mistakes_with_names_of_models(capsys):
    from smart_train import models

    with pytest.raises(ValueError, match=r"must name a model of timm, got 'resnet19'; there is "):
        models.build("timm:resnet19", 3, 32, 10)
    with pytest.raises(ValueError, match=r"must be an image classifier of transformers, got \./nowhere"):
        models.build("hf:./nowhere", 3, 32, 10)


@pytest.mark.parametrize(("cut", "form"), [(2, "bsr"), (4, "nm")], ids=["block", "2:4"])
def test_zeros_of_others_are_held_in_training_and_compressed(cut, form):
    """What Wanda leaves, whole tiles or 2:4: held while one trains on, then stored without them."""
    model, x = mlp(), torch.randn(256, 64)
    with torch.no_grad():
        if form == "nm":
            wanda_(model[2], model[:2](x))
        else:
            model[2].weight.view(4, 32, 4, 32)[:, :, ::cut] = 0
    zeros = model[2].weight == 0
    mask_from_zeros_(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    unmask_(model)
    assert model[2].weight[zeros].eq(0).all() and zeros.float().mean() > 0.4
    report = compress_(model.eval(), x, policy="size", backends=("dense", form), seconds=0)
    assert report.rows[1].choice == form


def test_torchaos_quantize_after_compress_and_not_before(caplog):
    """What stays dense becomes int8, what is sparse stays; the other way round layers stay, with a line."""
    quantization = pytest.importorskip("torchao.quantization")
    model, x = mlp(), torch.randn(16, 64)
    with torch.no_grad():
        model[2].weight.view(4, 32, 4, 32)[:2, :, :3] = 0
    first = copy.deepcopy(model)
    compress_(model, x, policy="size", backends=("dense", "bsr"), seconds=0)
    expected = model(x)
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    assert isinstance(model[2], SparseLinear) and "Int8" in type(model[0].weight).__name__
    torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.01)

    quantization.quantize_(first, quantization.Int8WeightOnlyConfig())
    report = compress_(first, x, seconds=0)
    assert all("compress_ first, quantize_ then" in report.left[name] for name in "024") and not report.rows
    with pytest.raises(ValueError, match="mask_ needs at least one"):
        mask_(first, Block(16, 16))
    assert "0 stays dense: its weight is Int8Tensor" in caplog.text
