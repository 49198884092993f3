"""The embedding width of models of transformers becomes smaller; rotary embeddings, which act in heads, stay whole."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from smart_kernels import Channel, compress_, mask_, slim_
from smart_kernels.integrations.transformers import attach_
from smart_kernels.nn import LiveNorm
from smart_train import OneShotPruner

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
IDS = {"input_ids": torch.arange(2 * 12).view(2, 12)}
WIDTH = Channel(width=True)


def llama(**settings):
    config = LlamaConfig(vocab_size=100, **SIZES, num_key_value_heads=2, **settings)
    return LlamaForCausalLM(config), {**IDS, "use_cache": False}


def bert():
    return BertForSequenceClassification(BertConfig(vocab_size=100, **SIZES, num_labels=3)), IDS


def vit():
    config = ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
    return ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 16, 16)}


def slimmed(make):
    """Return a model without half of its channels, after a look at its output before and after."""
    torch.manual_seed(0)
    model, example = make()
    pruner = OneShotPruner(model.eval(), WIDTH, 0.5, search_steps=1, example_input=example)
    pruner.harden()
    pruner.finalize()
    assert sum(isinstance(module, LiveNorm) for module in model.modules()) == 5
    with torch.no_grad():
        expected = model.eval()(**example)[0]
        shapes = slim_(model, example).layers
        torch.testing.assert_close(model(**example)[0], expected, rtol=1e-4, atol=1e-6)
    assert not any(isinstance(module, LiveNorm) for module in model.modules())
    return model, example, shapes


@pytest.mark.parametrize(
    ("make", "writer", "norm"),
    [
        pytest.param(llama, "mlp.down_proj", "model.norm", id="llama"),
        pytest.param(lambda: llama(tie_word_embeddings=True), "self_attn.o_proj", "model.norm", id="llama-tied"),
        pytest.param(bert, "output.dense", "bert.embeddings.LayerNorm", id="bert"),
        pytest.param(vit, "patch_embeddings.projection", "vit.layernorm", id="vit"),
    ],
)
def test_the_embedding_width_becomes_smaller(make, writer, norm):
    _, _, shapes = slimmed(make)
    (width,) = shapes[norm][1]
    assert 0 < width < 64
    assert {shape[0] for name, (_, shape) in shapes.items() if name.endswith(writer)} == {width}


def test_narrower_llama_generates_and_comes_back_by_from_pretrained(tmp_path):
    model, example, _ = slimmed(lambda: llama(tie_word_embeddings=True))
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    tokens = model.generate(IDS["input_ids"], **settings)
    attach_(model, compress_(model, example, backends=("dense",), seconds=0)).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.model.embed_tokens.embedding_dim == len(again.model.norm.weight) < 64
    assert torch.equal(again.generate(IDS["input_ids"], **settings), tokens)


def test_typical_mistakes(caplog):
    model, example = llama()
    with pytest.raises(ValueError, match=r"Channel\(width=True\) prunes channels .* example_input must show which"):
        mask_(model, WIDTH)
    mask_(model.model, WIDTH, example_input=example)  # what it returns is the stream itself
    assert "down_proj stays dense: its channels cannot be removed: the model returns them" in caplog.text
    pruned, example = bert()
    pruner = OneShotPruner(pruned.eval(), WIDTH, 0.5, search_steps=1, example_input=example)
    pruner.harden()
    pruner.finalize()
    with pytest.raises(ValueError, match=r"a file holds plain norms, got bert.embeddings.LayerNorm, .*: call slim_"):
        attach_(pruned, compress_(pruned, example, backends=("dense",), seconds=0))
