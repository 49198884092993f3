"""Hugging Face's Trainer with SmartCallback: one step per optimizer step, resumed exactly, zeros at the end."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from smart_kernels import Block, masked_layers
from smart_train import ACDCPruner, DAISPruner, GradualPruner, SmartPruner, TaylorPruner
from smart_train.integrations.transformers import STATE, SmartCallback

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def bert(**sizes) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=100, **SIZES | sizes, num_labels=3))


def texts(count: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 100, (count, 12), generator=generator)
    return [{"input_ids": ids, "labels": ids[0] % 3} for ids in drawn]


def trainer_of(model, folder, callback, **arguments) -> Trainer:
    settings = {"max_steps": 16, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    settings |= {"report_to": [], "use_cpu": True, "save_steps": 6, "logging_steps": 4, "learning_rate": 1e-3}
    settings |= {"disable_tqdm": True, "seed": 0, "dataloader_pin_memory": False, **arguments}
    return Trainer(model, TrainingArguments(str(folder), **settings), train_dataset=texts(), callbacks=[callback])


def pruned_by(model, **settings) -> SmartPruner:
    return SmartPruner(model, Block(16, 16), 0.75, **{"search_steps": 10, **settings})


def test_one_step_per_optimizer_step_and_plain_layers_at_the_end(tmp_path):
    model = bert()
    pruner = pruned_by(model)
    scores = [each.detach().clone() for each in pruner.parameters()]
    callback = SmartCallback(pruner)
    trainer = trainer_of(model, tmp_path, callback)
    learnt = pruner.parameters()
    trainer.train()
    assert callback.report["step"] == 16 and not masked_layers(model)
    assert abs(callback.report["kept_sparsity"] - 0.75) < 0.01
    assert any(not torch.equal(before, after) for before, after in zip(scores, learnt, strict=True))
    query = model.bert.encoder.layer[0].attention.self.query.weight
    assert (query == 0).any() or (model.bert.encoder.layer[0].output.dense.weight == 0).any()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert {"kept_sparsity", "gap", "temperature"} <= logged[0].keys()


def test_a_resumed_training_ends_as_the_one_that_was_not_interrupted(tmp_path):
    whole = bert()
    trainer_of(whole, tmp_path / "whole", SmartCallback(pruned_by(whole))).train()

    class Stop(SmartCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 6

    first = bert()
    trainer_of(first, tmp_path / "half", Stop(pruned_by(first))).train()
    assert masked_layers(first) and (tmp_path / "half" / "checkpoint-6" / STATE).exists()
    again = bert()
    callback = SmartCallback(pruned_by(again))
    trainer_of(again, tmp_path / "half", callback).train(resume_from_checkpoint=True)
    assert callback.report["step"] == 16
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


def test_scores_are_not_decayed_by_the_trainers_optimizer(tmp_path):
    model = bert()
    pruner = pruned_by(model)
    callback = SmartCallback(pruner, lr=1e-12)  # only decay could move them
    trainer = trainer_of(model, tmp_path, callback, weight_decay=0.5, max_steps=12)
    learnt = pruner.parameters()
    trainer.add_callback(Recorder(learnt))
    trainer.train()
    after_two, at_ten = Recorder.seen
    for before, after in zip(after_two, at_ten, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


class Recorder(SmartCallback):
    seen: list = []  # noqa: RUF012

    def __init__(self, scores):
        self.scores = scores
        Recorder.seen = []

    def __getattribute__(self, name):
        if name.startswith("on_") and name != "on_step_end":
            return lambda *args, **kwargs: None
        return super().__getattribute__(name)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (2, 10):
            Recorder.seen.append(copy.deepcopy([each.detach() for each in self.scores]))


@pytest.mark.parametrize("method", [GradualPruner, TaylorPruner, ACDCPruner])
def test_other_methods(method, tmp_path):
    """Without scores of their own; that look at batches first; that change the state of the Trainer's optimizer."""
    model = bert()
    callback = SmartCallback(method(model, Block(16, 16), 0.5, search_steps=8))
    trainer_of(model, tmp_path, callback).train()
    assert abs(callback.report["kept_sparsity"] - 0.5) < 0.01


def test_typical_mistakes(tmp_path):
    model = bert()
    callback = SmartCallback(pruned_by(model, search_steps=100))
    with pytest.raises(ValueError, match=r"more optimizer steps than dense_steps \+ search_steps = 100, got 16"):
        trainer_of(model, tmp_path, callback).train()
    with pytest.raises(ValueError, match="must have the model of the pruner, got another"):
        trainer_of(bert(), tmp_path, callback).train()
    with pytest.raises(ValueError, match="needs a method that leaves the loss alone, got DAISPruner"):
        SmartCallback(DAISPruner(bert(), Block(16, 16), 0.5, search_steps=8))
    other = bert()
    first = trainer_of(other, tmp_path / "first", SmartCallback(pruned_by(other)), max_steps=14)
    first.train()
    (tmp_path / "first" / "checkpoint-6" / STATE).unlink()
    resumed = bert()
    trainer = trainer_of(resumed, tmp_path / "first", SmartCallback(pruned_by(resumed)))
    with pytest.raises(ValueError, match=rf"needs {STATE} of SmartCallback in its checkpoint, got none in"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-6"))
