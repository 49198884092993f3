"""The model as it came: a candidate of the last comparison, and what puts it back."""

from torch import Tensor, nn

from smart_kernels.convert.modules import Snapshot, twin
from smart_kernels.nn import Sparse


class Original:
    """A model before anything is made faster: its modules, and the memory of its tensors.

    No tensor is copied. What is replaced later, a weight that a BatchNorm is folded into or a four-dimensional one that
    is put into channels_last, stays in memory in its old form until this object goes: at most one more copy of the
    convolutions and of the layers in front of BatchNorms.

    Args:
        model: it may be changed afterwards, as long as tensors are replaced and not written to.
        before: a snapshot of it.

    Attributes:
        model: other modules with the same tensors, which runs as the model did when it came.
    """

    def __init__(self, model: nn.Module, before: Snapshot):
        self._modules = _kinds(model)
        self._before = before
        self._data = [(parameter, parameter.data) for parameter in model.parameters()]
        self.model = twin(model, {id(p): _same_memory(p) for p in model.parameters()})

    def differs(self, model: nn.Module) -> bool:
        """Return whether a module became another or a weight lies elsewhere or in another order."""
        if _kinds(model) != self._modules:
            return True
        return any((p.data_ptr(), p.stride()) != (data.data_ptr(), data.stride()) for p, data in self._data)

    def stored_as(self) -> set[str]:
        """Return the formats of the sparse layers that it came with."""
        return {module.format.name for module in self.model.modules() if isinstance(module, Sparse)}

    def put_back_(self) -> None:
        """Make the model what it was: the same modules, Parameters and buffers, in the same memory."""
        self._before.restore()


def _same_memory(parameter: nn.Parameter) -> Tensor:
    """Return another Parameter that stays when the first is given other memory."""
    return nn.Parameter(parameter.data, parameter.requires_grad) if type(parameter) is nn.Parameter else parameter


def _kinds(model: nn.Module) -> list[tuple[nn.Module, type]]:
    return [(module, type(module)) for module in model.modules()]
