"""Heads of attention leave models of transformers and timm, and their head stays."""

import pytest
import timm
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperModel,
)

from smart_kernels import Block, Channel, mask_, slim_
from smart_kernels.integrations.transformers import linearize_
from smart_train import OneShotPruner

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
IDS = {"input_ids": torch.arange(2 * 12).view(2, 12)}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16)}


def bert(attention="sdpa"):
    return BertModel(BertConfig(vocab_size=100, **SIZES, attn_implementation=attention)), IDS


def llama(attention="sdpa"):
    config = LlamaConfig(vocab_size=100, **SIZES, num_key_value_heads=2, attn_implementation=attention)
    return LlamaForCausalLM(config), {**IDS, "use_cache": False}


def vit(attention="sdpa"):
    return ViTModel(ViTConfig(**SIZES, image_size=16, patch_size=8, attn_implementation=attention)), IMAGES


def t5(attention="eager"):
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=100, **sizes)), IDS


@pytest.mark.parametrize(
    ("make", "names"),
    [
        pytest.param(bert, ("query", "key", "value", "intermediate.dense"), id="bert"),
        pytest.param(lambda: bert("eager"), ("query", "key", "value"), id="bert-eager"),
        pytest.param(llama, ("q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"), id="llama"),
        pytest.param(lambda: llama("eager"), ("q_proj", "k_proj", "v_proj"), id="llama-eager"),
        pytest.param(vit, ("q_proj", "k_proj", "v_proj"), id="vit"),
        pytest.param(t5, ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v"), id="t5"),
    ],
)
def test_half_of_the_heads_leave(make, names):
    torch.manual_seed(0)
    model, example = make()
    model.eval()
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=example)
    pruner.harden()
    pruner.finalize()
    with torch.no_grad():
        expected = model.eval()(**example)[0]
        slimmed = slim_(model, example)
        torch.testing.assert_close(model(**example)[0], expected, rtol=1e-4, atol=1e-5)
    for name in names:
        assert any(each.endswith(name) for each in slimmed.layers), f"{name} stayed\n{slimmed}"
    rows = {shape[0] for name, (_, shape) in slimmed.layers.items() if name.endswith(names[0])}
    assert rows and all(count % 16 == 0 for count in rows)  # whole heads


def test_width_of_the_residual_stream_stays():
    model, example = llama()
    layers = mask_(model.eval(), Channel(), example_input=example)
    assert not any(name.endswith(("o_proj", "down_proj", "lm_head")) for name in layers)


@pytest.mark.parametrize("last", ["decoder.layers.1.fc2", "encoder.layers.1.fc2"])
def test_whispers_last_layer_is_no_head(last):
    sizes = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = WhisperModel(WhisperConfig(vocab_size=100, **sizes, **heads, **special))
    assert last in mask_(model, Block(16, 16))


def test_gpt2_made_linear_has_no_head_among_its_blocks():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4, pad_token_id=0))
    linearize_(model)
    assert {"transformer.h.1.mlp.c_proj", "transformer.h.0.attn.c_attn"} <= set(mask_(model, Block(16, 16)))


def test_timms_written_down_heads_leave_with_their_numbers():
    torch.manual_seed(0)
    model, x = timm.create_model("test_vit", num_classes=10).eval(), torch.randn(1, 3, 160, 160)
    pruner = OneShotPruner(model, Channel(), 0.5, search_steps=1, example_input=x)
    pruner.harden()
    pruner.finalize()
    with torch.no_grad():
        expected = model.eval()(x)
        slim_(model, x)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    attentions = [block.attn for block in model.blocks]
    assert all(each.proj.in_features == each.attn_dim == each.num_heads * each.head_dim for each in attentions)
    assert sum(each.num_heads for each in attentions) < 2 * len(attentions)
