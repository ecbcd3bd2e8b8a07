"""An evaluation shared out over processes, block by block, with the same result for any number of them.

Blocks are cut by the config alone, each is worked at by one process exactly as a single process would, and its result
is handed to all as it is: nothing is summed, so nothing rounds differently.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)


@dataclass(frozen=True)
class Shares:
    """Block b belongs to process b mod `world`."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def of_launch() -> "Shares":
        """All processes of torch.distributed, or this one alone. Every one of them must then evaluate."""
        if dist.is_available() and dist.is_initialized():
            return Shares(dist.get_rank(), dist.get_world_size())
        return Shares()

    def mine(self, block: int) -> bool:
        """Whether this process works at a block."""
        return block % self.world == self.rank

    def exchanged(self, blocks: int, work: Callable[[int], Tensor], device: torch.device | str) -> Iterator[Tensor]:
        """What `work` makes of block 0, 1, ..., on every process; each block is made on one. Collective.

        Traffic per process: every block once. Memory: one block of each process, on `device`.
        """
        for start in range(0, blocks, self.world):
            own = start + self.rank
            made = work(own) if own < blocks else None
            for block in range(start, min(start + self.world, blocks)):
                yield self._sent(made if block == own else None, block % self.world, device)

    def _sent(self, tensor: Tensor | None, source: int, device: torch.device | str) -> Tensor:
        if self.world == 1:
            assert tensor is not None
            return tensor
        # Receivers do not know what comes: type, number of dimensions and up to six sizes go ahead.
        head = torch.zeros(8, dtype=torch.int64, device=device)
        if tensor is not None:
            head[0], head[1] = DTYPES.index(tensor.dtype), tensor.ndim
            head[2 : 2 + tensor.ndim] = torch.tensor(tensor.shape)
        dist.broadcast(head, source)
        kind, ndim, *sizes = head.tolist()
        if tensor is None:
            tensor = torch.empty(sizes[:ndim], dtype=DTYPES[kind], device=device)
        tensor = tensor.to(device).contiguous()
        if tensor.dtype is torch.bool:
            bits = tensor.to(torch.uint8)
            dist.broadcast(bits, source)
            return bits.bool()
        dist.broadcast(tensor, source)
        return tensor
