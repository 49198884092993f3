"""Scikit-learn's handwritten digits."""

import numpy as np
import torch

from .source import Parts, Wanted


def read(wanted: Wanted) -> Parts:
    """Return scikit-learn's 1797 digits of 8 x 8 pixels, half of them for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data 'digits' must have scikit-learn installed: pip install scikit-learn") from error
    loaded = load_digits()
    images = torch.from_numpy(loaded.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    half = len(order) // 2  # half for the test: with 540 images one image would be 0.2 points
    train = order[:half]
    test = order[half:]
    return (images[train], labels[train]), (images[test], labels[test]), tuple("0123456789")
