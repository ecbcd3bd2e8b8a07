"""A ring of ranks: each sends to the next and receives from the one before."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from vlp.layers.gather import world_size


def start_shift(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to send `tensor` to the next rank; the function returned waits for the one that comes, of equal shape.

    Every rank calls it the same number of times in the same order. Traffic per rank: one tensor sent, one received. On
    one rank a tensor comes back as it is.
    """
    world = world_size()
    if world == 1:
        return lambda: tensor
    rank, sent, arriving = dist.get_rank(), tensor.contiguous(), torch.empty_like(tensor)
    exchange = [
        dist.P2POp(dist.isend, sent, (rank + 1) % world),
        dist.P2POp(dist.irecv, arriving, (rank - 1) % world),
    ]
    works = dist.batch_isend_irecv(exchange)

    def wait() -> Tensor:
        for work in works:
            work.wait()
        return arriving

    return wait
