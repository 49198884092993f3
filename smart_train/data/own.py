"""Images that the user's own function brings."""

from inspect import signature

import torch

from smart_train.reference import call, resolve

from .source import Parts

WANTED = (
    "(train, test) or (train, test, classes), train and test (images uint8 (n, channels, size, size), labels int64)"
)


def read(reference: str, split: str | None = None) -> Parts:
    """Return what ``package.module:function`` returns: training, test and, unless they are numbers, names of classes.

    Args:
        reference: the function.
        split: what its parameter ``split`` is told, if it has one: which images to return as the test.

    Raises:
        ValueError: there is no such function, it has no parameter for the split, or it returns something else.
    """
    if split is not None and "split" not in signature(resolve(reference)).parameters:
        raise ValueError(f"{reference} must have a parameter split to be told {split!r}, got none")
    given = call(reference, split=split)
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError(f"{reference} must return {WANTED}, got {type(given).__name__}")
    train, test = (_checked(reference, part) for part in given[:2])
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = f"{tuple(train[0].shape[1:])} and {tuple(test[0].shape[1:])}"
        raise ValueError(f"{reference} must return images of one size, got {shapes}")
    count = 1 + int(max(train[1].max(), test[1].max()))
    classes = tuple(map(str, given[2])) if len(given) == 3 else tuple(map(str, range(count)))
    if count > len(classes) or min(train[1].min(), test[1].min()) < 0:
        raise ValueError(f"{reference} must return labels from 0 to {len(classes) - 1}, got others")
    return train, test, classes


def _checked(reference: str, part) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        images, labels = (torch.as_tensor(each) for each in part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{reference} must return {WANTED}, got other parts: {error}") from error
    fits = images.dim() == 4 and images.dtype == torch.uint8 and labels.shape == images.shape[:1] and len(labels)
    if not fits or labels.is_floating_point() or images.shape[-1] != images.shape[-2]:
        got = f"{tuple(images.shape)} {images.dtype} and {tuple(labels.shape)} {labels.dtype}"
        raise ValueError(f"{reference} must return {WANTED}, got {got}")
    return images, labels.long()
