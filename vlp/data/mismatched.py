"""Captions given to wrong pictures on purpose, to see what training survives (noisy correspondence, Huang 2021)."""

import torch
from torch import Tensor


def mismatched(owners: Tensor, share: float, seed: int = 0) -> Tensor:
    """(T,) picture of each caption -> the same with a `share` of the captions dealt anew among their pictures.

    As in NCR: a random share of the pairs, their pictures permuted. Few of them get their own picture back.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} of the captions is not between 0 and 1")
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(owners), generator=g)[: round(share * len(owners))]
    out = owners.clone()
    out[chosen] = owners[chosen[torch.randperm(len(chosen), generator=g)]]
    return out
