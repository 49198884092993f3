"""Damaged and forged checkpoints are refused before torch makes a tensor of them."""

import copy
import pickle
import zipfile

import pytest
import torch

from smart_train.run import checkpoint, history
from tests.fuzz import originals


@pytest.fixture
def path(tmp_path):
    (tmp_path / "state.pt").write_bytes(originals.checkpoint())
    return tmp_path / "state.pt"


def rewritten(path, change):
    """Change the records of an archive, each with the right checksum again."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def described(name):
    return name.endswith("data.pkl")


def larger_storages(records):
    name = next(filter(described, records))
    records[name] = records[name].replace(b"FloatStorage", b"LongStorage")


def bytes_out_of_nothing(records):
    records[next(filter(described, records))] = pickle.dumps(Bomb(), protocol=2)


class Bomb:
    def __reduce__(self):
        return bytearray, (10**12,)


@pytest.mark.parametrize(
    "change, message",
    [
        (larger_storages, "must have the size of its record"),
        (bytes_out_of_nothing, "must hold tensors and plain values, got builtins.bytearray|got __builtin__.bytearray"),
        (lambda records: records.update({"archive/../../up": b""}), "within the archive"),
        (lambda records: records.update({"archive/data/0": b""}), "must have the size of its record"),
        (lambda records: records.pop(next(filter(described, list(records)))), "must describe its tensors"),
    ],
)
def test_forged_archives_are_refused(path, change, message):
    rewritten(path, change)
    with pytest.raises(ValueError, match=f"must be a whole checkpoint; delete it to train anew: .*({message})"):
        checkpoint.load(path, "cpu")


def test_a_flipped_bit_in_a_tensor_is_found(path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(each for each in archive.infolist() if each.filename.endswith("data/0"))
    content[record.header_offset + 200] ^= 1  # behind its header and padding
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # does not look
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(path, "cpu")


def numpy_beyond_its_end(state):
    name, words, _, *rest = state["random"]["numpy"]
    state["random"]["numpy"] = (name, words, 10**6, *rest)


def numpy_of_too_large_a_number(state):
    state["random"]["numpy"] = (*state["random"]["numpy"][:3], 2**70, 0.0)


def mask_of_another_shape(state):
    state["pruner"]["masks"] = {"0": torch.ones(1, 1, dtype=torch.bool)}


def moment_of_another_shape(state):
    state["optimizers"][0]["state"][0]["exp_avg"] = torch.zeros(1).expand(2**40)


@pytest.mark.parametrize(
    "change, message",
    [
        (numpy_beyond_its_end, "numpy must hold a state of its generator"),
        (mask_of_another_shape, "the mask of 0 must be"),
        (moment_of_another_shape, "exp_avg of an optimizer must be"),
        (lambda state: state["optimizers"][0]["state"][0].pop("step"), "a state must be complete"),
        (lambda state: state["optimizers"].pop(), "there must be 2 optimizers"),
        (lambda state: state["model"].pop("0.weight"), "model must hold"),
        (lambda state: state["model"].update({"0.weight": torch.zeros(32, 32, dtype=torch.float64)}), "float32"),
        (lambda state: state["pruner"].update(pools=[]), "the pruner must have the pools"),
        (lambda state: state["pruner"].update(stage="over"), "stage must be one of"),
        (lambda state: state.update(step=99), "step must be a whole number up to 6"),
        (lambda state: state.update(pruner=None), "a pruner in both or in none"),
        (lambda state: state["random"].update(python=(3, (1,), None)), "python must hold"),
        (
            lambda state: state["random"].update(python=(torch.ones(2), *state["random"]["python"][1:])),
            "python must hold",
        ),
        (lambda state: state["random"]["torch"].fill_(255), "torch must hold a state of its generator, not: "),
        (numpy_of_too_large_a_number, "numpy must hold a state of its generator, not: "),
    ],
)
def test_a_state_of_something_else_changes_nothing(change, message):
    state, training = copy.deepcopy(originals.state()), originals.training()
    before = copy.deepcopy(training.state_dict())
    change(state)
    with pytest.raises(ValueError, match=f"must be one of this training: .*{message}"):
        training.load_state_dict(state)
    assert originals.equal(training.state_dict(), before)


def replaced(holder, path, value):
    """Return ``holder`` with a value at a path, changed in place where it is no tuple."""
    if not path:
        return value
    first, *rest = path
    if isinstance(holder, tuple):
        return tuple(replaced(old, rest, value) if place == first else old for place, old in enumerate(holder))
    holder[first] = replaced(holder.get(first) if isinstance(holder, dict) else holder[first], rest, value)
    return holder


ADAM, GROUP = ("optimizers", 0, "state"), ("optimizers", 0, "param_groups")
NUMPY, PYTHON = (("random", name) for name in ("numpy", "python"))
NUMBERS = torch.arange(3.0)


@pytest.mark.parametrize(
    "path, values, message",
    [
        (("step",), (-1, True, 2.0, 7), "step must be a whole number up to 6"),
        (("more",), (1,), "the state must hold"),
        (("model", "0.bias"), ([0.0] * 32, torch.zeros(32, 1), torch.zeros(32).int()), r"model 0.bias must be \(32,\)"),
        (("optimizers",), ((), {}), "optimizers must be a list"),
        (("optimizers", 0), ([], {"state": {}}), r"an optimizer must hold \['param_groups', 'state'\]"),
        (GROUP, ((), [], {0: 0}), "an optimizer must have its groups"),
        ((*GROUP, 0), ([], {"params": []}), "a group of an optimizer must hold"),
        ((*GROUP, 0, "lr"), ("1", None, NUMBERS), "lr of an optimizer must be like"),
        ((*GROUP, 0, "betas"), ([0.9, 0.99], (0.9,), (0.9, "1"), 0.9), "betas of an optimizer must be like"),
        ((*GROUP, 0, "amsgrad"), (1, None), "amsgrad of an optimizer must be like False"),
        ((*GROUP, 0, "params"), ([0, 1, 2, 3, 4, 4],), "an optimizer must have its parameters"),
        (ADAM, ([], None), "the state of an optimizer must be a table"),
        ((*ADAM, 6), ({},), "an optimizer must have states of its parameters"),
        ((*ADAM, -1), ({},), "an optimizer must have states of its parameters"),
        ((*ADAM, "0"), ({},), "an optimizer must have states of its parameters"),
        ((*ADAM, 0), ([], {"step": torch.tensor(1.0)}), "a state must be complete"),
        ((*ADAM, 0, "step"), (1, torch.ones(1), torch.tensor(1)), r"step of an optimizer must be \(\) numbers"),
        (
            (*ADAM, 1, "exp_avg"),
            (0.0, torch.zeros(1), torch.zeros(32).int()),
            r"exp_avg of an optimizer must be \(32,\)",
        ),
        (("pruner",), ([], {"step": 1}), "the pruner must hold"),
        (("pruner", "step"), (-1, 2**62 + 1, 1.0), "the pruner's step must be a whole number"),
        (("pruner", "stage"), (None, "over"), r"must be one of \('dense', 'search', 'finetune'\)"),
        (("pruner", "masks"), ([], {"4": torch.ones(1)}), "masks must be those of the pruned layers"),
        (
            ("pruner", "looks", "2"),
            (1, torch.ones(4, 2), torch.ones(2, 4).int()),
            r"the mask of 2 must be \(2, 4\), bool",
        ),
        (("pruner", "thresholds"), ((), [], [None, None]), "each pool must have a threshold"),
        (
            ("pruner", "thresholds", 0),
            (0.0, torch.ones(2), torch.ones(0), torch.tensor(1)),
            "None or at most 1 numbers",
        ),
        (("pruner", "looked"), ("1", None), "looked of the pruner must be like 0"),
        (
            ("pruner", "signal"),
            ([], torch.zeros(3, 23), torch.zeros(3, 24).double()),
            "signal of the pruner must be like",
        ),
        (("random",), ([], {"torch": NUMBERS}), "random must hold"),
        (
            ("random", "torch"),
            ("", torch.zeros(5056), torch.zeros(1).byte()),
            r"random torch must be \(5056,\) torch.uint8",
        ),
        (("random", "cuda"), ((), [1], [NUMBERS]), "cuda is none"),
        (NUMPY, ([], (1, 2)), "numpy must hold a state of its generator"),
        ((*NUMPY, 0), (1, "PCG64"), "numpy must hold"),
        ((*NUMPY, 1), (0, [1] * 623, [2**32] * 624, [-1] * 624, [1.0] * 624), "numpy must hold"),
        ((*NUMPY, 2), (-1, 625, 1.0), "numpy must hold"),
        ((*NUMPY, 3), (0.0, None), "numpy must hold"),
        ((*NUMPY, 4), (0, None), "numpy must hold"),
        (PYTHON, ([], (3, ())), "python must hold"),
        ((*PYTHON, 0), (2, 3.0), "python must hold"),
        ((*PYTHON, 1), ([1] * 625, (1,) * 624, (2**32,) * 624 + (0,), (1,) * 624 + (625,)), "python must hold"),
        ((*PYTHON, 2), (1, "1"), "python must hold"),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) and isinstance(part[0], str) else "",
)
def test_each_part_of_a_state_must_be_of_its_kind(path, values, message):
    training = originals.training()
    for value in values:
        state = replaced(copy.deepcopy(originals.state()), path, value)
        with pytest.raises(ValueError, match=f"must be one of this training: .*{message}"):
            training.load_state_dict(state)
    assert training.step == 0 and not training.optimizers[0].state


def test_a_training_that_has_not_begun_can_be_taken_up():
    taken = copy.deepcopy(originals.training().state_dict())
    training = originals.training()
    training.load_state_dict(taken)
    assert taken["step"] == 0 and originals.equal(training.state_dict(), taken)


def test_a_state_may_hold_all_that_a_training_may_come_to():
    state, training = copy.deepcopy(originals.state()), originals.training()
    changes = {
        ("step",): 6,
        (*GROUP, 0, "lr"): 1,
        ("pruner", "thresholds", 0): None,
        ("pruner", "looks"): {"2": torch.ones(2, 4, dtype=torch.bool)},
        (*NUMPY, 3): 1,  # half of a pair of normal numbers is left over
        (*NUMPY, 4): 0.5,
        (*PYTHON, 2): 0.5,
    }
    for path, value in changes.items():
        state = replaced(state, path, value)
    training.load_state_dict(state)
    assert originals.equal(training.state_dict(), state)


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}', "[" * 100_000], ids=len)
def test_a_history_of_something_else_is_refused(line, tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    for use in (history.read, lambda path: history.append_to(path, 5)):
        with pytest.raises(ValueError, match="must hold a row of JSON with its step in each line"):
            use(path)


def test_a_history_is_cut_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 5}\n{"step": 10}\n')
    monkeypatch.setattr(checkpoint.os, "replace", lambda *paths: exec("raise OSError"))
    with pytest.raises(OSError):
        history.append_to(path, 5)
    assert [row["step"] for row in history.read(path)] == [5, 10]
