"""all-MiniLM-L6-v2 pruned, saved, loaded by from_pretrained and compared, with its real weights."""

import json
from functools import partial

import pytest
from transformers import AutoModel

from smart_kernels import compress_
from smart_kernels.nn import Sparse
from smart_train import docstrings, minilm

pytest.importorskip(minilm.PACKAGE)


def quickly(model, example, backends=("dense", "bsr")):
    return compress_(model, example, backends=backends, policy="size", seconds=0)


def test_pruned_saved_loaded_compared(tmp_path, capsys, monkeypatch):
    """In small: four steps, few texts, and one look at each layer, whatever it would choose."""
    monkeypatch.setattr(minilm, "LATENCY", (1, 16))
    monkeypatch.setattr(minilm, "BATCH", 4)
    monkeypatch.setattr(minilm, "texts", partial(docstrings.texts, 60, 40))
    monkeypatch.setattr(minilm, "compress_", quickly)
    assert minilm.demo(tmp_path, steps=(2, 2)) == 0
    found = json.loads((tmp_path / "demo.json").read_text())
    assert found["loaded_equal"] and found["speedup"] > 0 and -1 <= found["spearman"] <= 1
    model = AutoModel.from_pretrained(tmp_path)
    assert sum(isinstance(module, Sparse) for module in model.modules()) >= 12
    assert "x as fast as the best dense" in capsys.readouterr().out
