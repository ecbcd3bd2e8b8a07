"""Captions given to wrong pictures on purpose, to see what training survives (noisy correspondence, Huang 2021)."""

import torch
from torch import Tensor


def mismatched(owners: Tensor, share: float, seed: int = 0, views: int = 1) -> Tensor:
    """(T,) picture of each caption -> the same with a `share` of the captions dealt anew among their pictures.

    As in NCR: a random share of the pairs, their pictures permuted. Few of them get their own picture back. With
    `views` the pictures stand as so many neighbours of one photograph, each with the same captions in the same order
    (`vlp data features --views`): a caption goes to one photograph, to each of its views in turn.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} of the captions is not between 0 and 1")
    photographs, view = owners // views, owners % views
    first = photographs[view == 0]
    if any(not torch.equal(photographs[view == other], first) for other in range(1, views)):
        raise ValueError(f"the pictures are not {views} neighbouring views each, with the same captions in one order")
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(first), generator=g)[: round(share * len(first))]
    dealt = first.clone()
    dealt[chosen] = first[chosen[torch.randperm(len(chosen), generator=g)]]
    out = owners.clone()
    for number in range(views):
        out[view == number] = dealt * views + number
    return out
