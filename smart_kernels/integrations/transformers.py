"""Compressed models of Hugging Face: ``save_pretrained`` writes them sparse, ``from_pretrained`` brings them back so.

Import this module before ``from_pretrained``: transformers finds no plug-ins by itself.
"""

import logging

from smart_kernels.convert import Report
from smart_kernels.convert.measure import device_name
from smart_kernels.convert.saving import gathered, reported, run_as_chosen_, shape_

from .conv1d import from_conv1d, linearize_
from .stored import fill_stored_, store_, stored_keys

try:
    from transformers import PreTrainedModel
    from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise ImportError("this needs transformers 5 or later: pip install smart-kernels[transformers]") from error

__all__ = ["SparseConfig", "attach_", "linearize_"]

logger = logging.getLogger("smart_kernels")
METHOD = "smart_kernels"


def attach_(model: PreTrainedModel, report: Report) -> PreTrainedModel:
    """Let ``save_pretrained``, and with it a Trainer or ``push_to_hub``, write a compressed model sparse.

    ::

        report = compress_(model, example)
        attach_(model, report).save_pretrained("pruned")
        ...
        import smart_kernels.integrations.transformers
        model = AutoModel.from_pretrained("pruned")  # sparse, and runs as it was chosen to

    Args:
        model: that ``compress_`` returned ``report`` for; call again after another ``compress_``.
        report: its choices.

    Raises:
        TypeError: the model is none of transformers.
        ValueError: it is quantized already, or the report is that of another model.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"attach_ needs a model of transformers, got {type(model).__name__}: save() is for all others")
    if not isinstance(getattr(model, "hf_quantizer", None), SparseQuantizer | None):
        raise ValueError(f"attach_ needs a model that is not quantized, got one by {type(model.hf_quantizer).__name__}")
    quantizer = SparseQuantizer(SparseConfig(), report=report)
    quantizer.get_state_dict_and_metadata(model)  # complains now, and not when a training has ended
    model.hf_quantizer = quantizer
    model.config.quantization_config = quantizer.quantization_config
    return model


@register_quantization_config(METHOD)
class SparseConfig(QuantizationConfigMixin):
    """``quantization_config`` in ``config.json``.

    Args:
        saved: what ``smart_kernels.save`` writes as its ``config.json``.
        tensors: key -> [sizes, dtype] of the tensors that weights are stored as.
        biases: keys of all biases.
        conv1d: the layers that are a transposed ``Conv1D`` in the code of transformers.
    """

    def __init__(self, saved=None, tensors=None, biases=(), conv1d=(), **_):
        self.quant_method = METHOD
        self.saved = saved or {}
        self.tensors = tensors or {}
        self.biases = list(biases)
        self.conv1d = list(conv1d)


@register_quantizer(METHOD)
class SparseQuantizer(HfQuantizer):
    """Builds sparse layers around what ``from_pretrained`` reads, and takes them apart for ``save_pretrained``."""

    requires_calibration = True  # what to prune is not known before training
    quantization_config: SparseConfig

    def __init__(self, quantization_config: SparseConfig, report: Report | None = None, **kwargs):
        super().__init__(quantization_config, **kwargs)
        self.report = report

    def is_serializable(self, **_) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True

    def _process_model_before_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        self.report = reported(config.saved)
        linearize_(model, config.conv1d)
        shape_(model, config.saved, config.biases)
        self.plain = store_(model, self.report, config.tensors)
        return model

    def _process_model_after_weight_loading(self, model, **kwargs):
        fill_stored_(model, self.report, self.quantization_config.saved, self.plain)
        del self.plain
        if (here := device_name(model.device)) != self.report.device:
            logger.warning(
                "backends were chosen on %s, this is %s: compress_(model, example_input) and attach_ choose again",
                self.report.device,
                here,
            )
        run_as_chosen_(model, self.report)
        return model

    def get_state_dict_and_metadata(self, model):
        """Return the tensors of the model, weights in their smallest form, and bring the config up to date."""
        saved, tensors = gathered(model, self.report)
        _check_ties(model, saved["tied"])
        moved = stored_keys(saved["layers"])
        config = self.quantization_config
        config.saved = saved
        config.tensors = {moved[key]: [list(t.shape), str(t.dtype)[6:]] for key, t in tensors.items() if key in moved}
        config.biases = [key for key in tensors if key.endswith(".bias")]
        config.conv1d = from_conv1d(model)
        return {moved.get(key, key): tensor for key, tensor in tensors.items()}, {}


def _check_ties(model: PreTrainedModel, tied: dict[str, str]) -> None:
    """Raise ValueError where ``from_pretrained`` would not tie again what ``tied`` says is one tensor."""
    known = model.all_tied_weights_keys
    if unknown := sorted(tied.keys() - known.keys() - set(known.values())):
        raise ValueError(f"transformers must know which weights are tied, got {unknown}, tied by hand: untie them")
