"""Embeddings of texts: from the states of their tokens, and how alike two models order texts by them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOP = 10


def distance(output, target, mask: Tensor) -> Tensor:
    """Return the mean squared difference of token states, over the target's, and 1 - cosine of embeddings."""
    mine, theirs = output.last_hidden_state, target.last_hidden_state
    weight = mask.unsqueeze(-1).to(mine.dtype)
    tokens = ((mine - theirs).square() * weight).sum() / (theirs.square() * weight).sum()
    return tokens + (1 - F.cosine_similarity(pooled(mine, mask), pooled(theirs, mask))).mean()


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Return (texts, width) means over the tokens of each text, of length 1."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return F.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)


@torch.no_grad()
def embed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return (texts, width) embeddings of length 1."""
    return pooled(model(**batch).last_hidden_state, batch["attention_mask"])


def rank_agreement(dense: Tensor, pruned: Tensor) -> dict[str, float]:
    """Say how alike two sets of embeddings of the same texts order these by their similarity to each.

    Returns:
        ``top`` and ``first``: shares of the ``TOP`` nearest texts, and of the nearest one, that are the same;
        ``spearman``: mean correlation of ranks; ``cosine``: mean similarity of the two embeddings of a text.
    """
    orders = [(each @ each.T).fill_diagonal_(-2.0) for each in (dense, pruned)]
    nearest = [order.topk(TOP).indices for order in orders]
    shared = (nearest[0].unsqueeze(2) == nearest[1].unsqueeze(1)).any(2).float().mean().item()
    first = (nearest[0][:, 0] == nearest[1][:, 0]).float().mean().item()
    ranks = [order.argsort(1).argsort(1).double() for order in orders]
    centred = [F.normalize(rank - rank.mean(1, keepdim=True), dim=1) for rank in ranks]
    spearman = (centred[0] * centred[1]).sum(1).mean().item()
    return {"top": shared, "first": first, "spearman": spearman, "cosine": (dense * pruned).sum(1).mean().item()}
