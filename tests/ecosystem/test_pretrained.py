"""Compressed models of transformers through save_pretrained and from_pretrained, and what people do with them."""

import json
import logging
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.quantizers import auto

from smart_kernels import Block, SparseLinear, compress_, load, save
from smart_kernels.integrations.transformers import attach_, linearize_
from smart_train import OneShotPruner

IDS = torch.arange(2 * 12).view(2, 12)
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def bert() -> BertModel:
    return BertModel(BertConfig(vocab_size=100, **SIZES)).eval()


def llama() -> LlamaForCausalLM:
    """Two heads of keys and values for four of queries: GQA."""
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, **SIZES, num_key_value_heads=2, pad_token_id=0)).eval()


def gpt2(tied: bool = True) -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, tie_word_embeddings=tied, pad_token_id=0)
    return GPT2LMHeadModel(config).eval()


def prune_(model: nn.Module, sparsity: float = 0.75) -> nn.Module:
    pruner = OneShotPruner(model, Block(16, 16), sparsity, search_steps=1)
    pruner.harden()
    pruner.finalize()
    return model.eval()


def compressed(model: nn.Module, example) -> tuple[nn.Module, object]:
    report = compress_(prune_(model), example, policy="size", backends=("dense", "bsr"), seconds=0)
    return model, report


def output(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def sparse_layers(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, SparseLinear)]


@pytest.mark.parametrize("build", [bert, llama, gpt2], ids=lambda build: build.__name__)
def test_save_pretrained_and_from_pretrained(build, tmp_path):
    model = build()
    linearize_(model)
    dense_size = sum(p.numel() for p in model.parameters()) * 4
    model, report = compressed(model, {"input_ids": IDS})
    attach_(model, report).save_pretrained(tmp_path)
    kind = AutoModel if build is bert else AutoModelForCausalLM
    again, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert sparse_layers(again) == sparse_layers(model) and len(sparse_layers(model)) >= 8
    torch.testing.assert_close(output(again.eval(), input_ids=IDS), output(model, input_ids=IDS))
    assert os.path.getsize(tmp_path / "model.safetensors") < 0.7 * dense_size
    again.save_pretrained(tmp_path / "again")
    third = kind.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(output(third, input_ids=IDS), output(model, input_ids=IDS))


def test_in_another_dtype(tmp_path):
    model, report = compressed(bert(), {"input_ids": IDS})
    attach_(model, report).save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert sparse_layers(again) == sparse_layers(model) and again.dtype == torch.bfloat16
    wanted = output(model, input_ids=IDS)
    assert (output(again, input_ids=IDS).float() - wanted).norm() < 0.05 * wanted.norm()


def test_folded_batchnorms_of_a_convolutional_net(tmp_path):
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config).eval()
    example = {"pixel_values": torch.randn(2, 3, 32, 32)}
    model, report = compressed(model, example)
    attach_(model, report).save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output(again, **example), output(model, **example))
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]


def test_generate_with_a_static_cache():
    model = llama()
    prune_(model)
    settings = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    wanted = model.generate(IDS, **settings)
    compress_(model, {"input_ids": IDS}, policy="size", backends=("dense", "bsr"), seconds=0)
    assert sparse_layers(model)
    assert torch.equal(model.generate(IDS, **settings), wanted)


def test_conv1d_and_tied_embeddings():
    model = gpt2()
    wanted = output(model, input_ids=IDS)
    names = linearize_(model)
    assert len(names) == 8 and all(type(model.get_submodule(name)) is nn.Linear for name in names)
    torch.testing.assert_close(output(model, input_ids=IDS), wanted)
    model, _ = compressed(model, {"input_ids": IDS})
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {*sparse_layers(model)} <= {*names}


def test_lora_on_a_pruned_base_keeps_its_zeros():
    model = prune_(llama())
    before = {name: p == 0 for name, p in model.named_parameters() if (p == 0).any()}
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        tuned(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = output(tuned.eval(), input_ids=IDS)
    after = {name.replace(".base_layer", ""): p == 0 for name, p in model.named_parameters()}
    assert before and all(torch.equal(after[name], zeros) for name, zeros in before.items())
    compress_(tuned, {"input_ids": IDS}, policy="size", backends=("dense", "bsr"), seconds=0)
    assert any(name.endswith("base_layer") for name in sparse_layers(tuned))
    torch.testing.assert_close(output(tuned, input_ids=IDS), wanted)


def test_lora_after_compress_is_refused_by_peft():
    model, _ = compressed(llama(), {"input_ids": IDS})
    with pytest.raises(ValueError, match=r"(?s)Target module SparseLinear.* is not supported"):
        get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


def test_our_save_leaves_their_files_alone(tmp_path):
    model, report = compressed(bert(), {"input_ids": IDS})
    bert().save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="must not replace a file that it did not write"):
        save(model, tmp_path, report)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    save(model, tmp_path / "ours", report)
    again = bert()
    load(again, tmp_path / "ours")
    torch.testing.assert_close(output(again, input_ids=IDS), output(model, input_ids=IDS))


def test_typical_mistakes(tmp_path, caplog):
    model, report = compressed(bert(), {"input_ids": IDS})
    with pytest.raises(TypeError, match=r"attach_ needs a model of transformers, got Sequential: save\(\) is for"):
        attach_(nn.Sequential(nn.Linear(4, 4)), report)
    with pytest.raises(ValueError, match="the model has no layer encoder"):
        attach_(gpt2(), report)
    with pytest.raises(ValueError, match="must be a Conv1D of transformers, got Linear"):
        linearize_(bert(), ["encoder.layer.0.output.dense"])
    attach_(model, report).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["saved"]["report"]["device"] = "another one"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, logger="smart_kernels"):
        AutoModel.from_pretrained(tmp_path)
    assert "compress_(model, example_input) and attach_ choose again" in caplog.text


def test_without_our_import_transformers_warns(tmp_path, monkeypatch, caplog):
    """It then initialises the sparse layers anew, which its report of the loading says."""
    model, report = compressed(bert(), {"input_ids": IDS})
    attach_(model, report).save_pretrained(tmp_path)
    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "smart_kernels")
    monkeypatch.delitem(auto.AUTO_QUANTIZER_MAPPING, "smart_kernels")
    with caplog.at_level(logging.WARNING, logger="transformers"):
        _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert "Unknown quantization type, got smart_kernels" in caplog.text
    assert any(key.endswith("dense.weight") for key in info["missing_keys"])


def test_weights_tied_by_hand_are_refused():
    model = bert()
    first, second = model.encoder.layer
    second.output.dense.bias = first.output.dense.bias
    model, report = compressed(model, {"input_ids": IDS})
    with pytest.raises(ValueError, match="transformers must know which weights are tied, got"):
        attach_(model, report)
