"""All-gather across ranks, with the gradient that makes W ranks equal one rank with the joined batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import Function


def world_size() -> int:
    """Number of ranks, 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        ctx.rows = local.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Every rank's loss reads this rank's rows, so their gradients add up; a slice alone would lose them.
        total = grads[0].contiguous()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather(local: Tensor) -> Tensor:
    """(B, ...) -> (W * B, ...) in rank order, differentiable; the same B on every rank.

    Memory: W * B rows on each rank. Traffic per rank: (W - 1) * B rows received forward, and one all-reduce of W * B
    rows backward. Outside torch.distributed it is the identity.
    """
    if world_size() == 1:
        return local
    if not local.requires_grad:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)
    gathered: Tensor = _Gather.apply(local)
    return gathered


def rank_weight(count: Tensor | int, device: torch.device) -> Tensor:
    """W count / (the ranks' counts together). A mean over `count` rows of this rank times it, averaged over the ranks
    as gradients are, is the mean over the rows of all ranks; 1 outside torch.distributed.

    Traffic: one all-reduce of one number.
    """
    own = torch.as_tensor(count, dtype=torch.float32, device=device)
    if world_size() == 1:
        return torch.ones_like(own)
    total = own.detach().clone()
    dist.all_reduce(total)
    return world_size() * own / total.clamp(min=1)
