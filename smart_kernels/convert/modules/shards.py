"""Models that ``torch.distributed.fsdp.fully_shard`` has cut."""

from torch import nn


def check_whole(model: nn.Module, action: str) -> None:
    """Raise ValueError where a process holds a part of a parameter only, so that ``action`` cannot be."""
    shards = [name for name, parameter in model.named_parameters() if hasattr(parameter, "placements")]
    if shards:
        raise ValueError(
            f"{action} needs whole parameters, got shards of fully_shard in {', '.join(shards[:3])}"
            f"{' and more' if len(shards) > 3 else ''}: do it before, or load the full state_dict into a model without"
        )
