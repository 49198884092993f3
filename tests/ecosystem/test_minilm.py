"""all-MiniLM-L6-v2 pruned, saved, loaded by from_pretrained and compared, with its real weights."""

import json

import pytest
from transformers import AutoModel

from smart_kernels.nn import Sparse
from smart_train import minilm

pytest.importorskip(minilm.PACKAGE)


def test_pruned_saved_loaded_compared(tmp_path, capsys):
    assert minilm.demo(tmp_path, steps=(2, 2)) == 0
    found = json.loads((tmp_path / "demo.json").read_text())
    assert found["loaded_equal"] and found["speedup"] > 0 and -1 <= found["spearman"] <= 1
    model = AutoModel.from_pretrained(tmp_path)
    assert sum(isinstance(module, Sparse) for module in model.modules()) >= 12
    assert "x as fast as the best dense" in capsys.readouterr().out
