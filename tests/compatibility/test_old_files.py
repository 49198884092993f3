"""Files of version 0.1.0 still load: saved models give the same outputs, checkpoints go on to the same end."""

from pathlib import Path

import pytest
import torch

from smart_kernels import load

from .models import SAVED, STOPPED, advance, built, mlp, optimizer_of, pruner_of

FILES = Path(__file__).parent / "v0.1.0"


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_loads(name):
    expected = torch.load(FILES / name / "expected.pt", weights_only=True)
    model = built(name)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_()  # all has to come from the files
    report = load(model, FILES / name)
    with torch.no_grad():
        torch.testing.assert_close(model(expected["input"]), expected["output"], rtol=1e-5, atol=1e-5)
    assert any(row.sparse for row in report.rows) or name == "slimmed"


@pytest.mark.parametrize("stage, steps", STOPPED.items())
def test_a_checkpoint_goes_on(stage, steps):
    saved = torch.load(FILES / f"{stage}.pt", weights_only=True)
    model = mlp()
    pruner = pruner_of(model)
    optimizer = optimizer_of(pruner)
    model.load_state_dict(saved["state"]["model"])
    optimizer.load_state_dict(saved["state"]["optimizer"])
    pruner.load_state_dict(saved["state"]["pruner"])
    assert pruner.stage == stage
    advance(model, pruner, optimizer, range(steps, 12))
    pruner.finalize()
    assert model.state_dict().keys() == saved["final"].keys()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, saved["final"][key], rtol=1e-4, atol=1e-5, msg=key)
