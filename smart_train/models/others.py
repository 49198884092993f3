"""Models of other people: of timm, of transformers, and the user's own."""

from torch import Tensor, nn

from smart_train.reference import call

KINDS = ("timm:NAME", "hf:PATH")


class Logits(nn.Module):
    """An image classifier of transformers that takes images and returns logits, as those of all others do."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(pixel_values=images).logits


def timm(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """Return a model of timm, freshly initialised; ``NAME/pretrained`` with its weights.

    Raises:
        ValueError: timm is not installed, or has no such model.
    """
    try:
        import timm as library
    except ImportError as error:
        raise ValueError("--model timm:NAME must have timm installed: pip install smart-kernels[timm]") from error
    name, _, weights = name.partition("/")
    if not library.is_model(name):
        near = ", ".join(library.list_models(f"*{name[:6]}*")[:5]) or "timm.list_models() has all"
        raise ValueError(f"--model timm:NAME must name a model of timm, got {name!r}; there is {near}")
    sizes = {"in_chans": channels, "num_classes": classes, "pretrained": weights == "pretrained"}
    try:
        return library.create_model(name, img_size=size, **sizes)
    except TypeError:  # only those with positions want to know
        return library.create_model(name, **sizes)


def huggingface(path: str, channels: int, size: int, classes: int) -> nn.Module:
    """Return an image classifier of transformers with the weights in ``path``; a head of another size starts anew.

    Raises:
        ValueError: transformers is not installed, or there is no image classifier.
    """
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        text = "--model hf:PATH must have transformers installed: pip install smart-kernels[transformers]"
        raise ValueError(text) from error
    try:
        return Logits(
            AutoModelForImageClassification.from_pretrained(path, num_labels=classes, ignore_mismatched_sizes=True)
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"--model hf:PATH must be an image classifier of transformers, got {path}: {error}") from error


def own(reference: str, channels: int, size: int, classes: int) -> nn.Module:
    """Return what the user's function makes; it is told those of ``channels``, ``size``, ``classes`` that it names.

    Raises:
        ValueError: there is no such function, or it makes something else.
    """
    model = call(reference, channels=channels, size=size, classes=classes)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{reference} must return an nn.Module, got {type(model).__name__}")
    return model
