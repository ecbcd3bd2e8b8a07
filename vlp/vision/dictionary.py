"""A visual dictionary over grid cells (SOHO, Huang 2021, section 3.2; van den Oord 2017 for the moving average)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlp.layers.gather import gather, world_size
from vlp.types import Batch, Stream
from vlp.vision.grid import GridCNN


def nearest(cells: Tensor, entries: Tensor) -> Tensor:
    """(..., D) cells and (K, D) entries -> (...) index of the entry at the least euclidean distance."""
    distance = entries.square().sum(1) - 2 * cells @ entries.T
    return distance.argmin(-1)


class VisualDictionary(nn.Module):
    """Each cell of a grid is replaced by its nearest entry; the gradient passes straight through to the cell.

    Positions are those of the grid, added to the entries in front of a layer norm, as released: an entry says what a
    cell shows, and a hidden cell (`hide`) still where it is.

    Entries are the moving average (`decay`) of the cells that chose them, over all ranks: counts and sums, K (D + 1)
    numbers, are reduced once a step. They change in `after_step`, so a step looks up the entries of the one before.
    An entry whose moving count falls below `revive` becomes a cell of that step (random restarts, Dhariwal 2020,
    Jukebox, section 3.1), or a network from nothing may use few entries for ever; 0, as published, leaves it. At the
    decay of 0.4, 1e-4 is ten steps without a cell. Traffic: as many cells as there are such entries, gathered.
    """

    def __init__(self, *, grid: GridCNN, entries: int = 2048, decay: float = 0.4, revive: float = 0.0) -> None:
        super().__init__()
        if grid.sample:
            raise ValueError(f"a dictionary looks up every cell, but the grid's sample={grid.sample} leaves some out")
        self.grid = grid
        self.image_size = grid.image_size
        self.width = grid.width
        self.decay = decay
        self.revive = revive
        self.register_buffer("entries", torch.randn(entries, grid.width))
        self.register_buffer("counts", torch.ones(entries))
        self.register_buffer("sums", self.entries.clone())
        self.entries: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.mask = nn.Parameter(torch.zeros(grid.width))
        self.norm = nn.LayerNorm(grid.width)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def hidden_features(self, batch: Batch) -> Tensor:
        """(P, N, D) cells before the look-up, without their places; those of the batch, if it brings them."""
        if batch.features is not None:
            return batch.features if torch.is_grad_enabled() else batch.features.detach()
        cells: Tensor = self.grid.projection(self.grid.hidden_features(batch))
        return cells

    @torch.no_grad()
    def codes(self, batch: Batch) -> Tensor:
        """(P, N) dictionary index of every cell."""
        return nearest(self.hidden_features(batch).to(self.entries.dtype), self.entries)

    def forward(self, batch: Batch) -> Stream:
        """Pictures to a stream of entries."""
        cells = self.hidden_features(batch)
        codes = nearest(cells.detach().to(self.entries.dtype), self.entries)
        if self.training:
            self._pending.append((cells.detach().to(self.entries.dtype).flatten(0, 1), codes.flatten()))
        tokens = self.norm(self.entries[codes].to(cells.dtype) + cells - cells.detach() + self.grid.positions)
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def hide(self, seen: Stream, hidden: Tensor) -> Stream:
        """The part's stream with a learned vector in place of the entries of the cells `hidden` (P, N) bool, at their
        places."""
        shown = self.norm(self.mask + self.grid.positions).to(seen.tokens.dtype)
        return Stream(torch.where(hidden[..., None], shown, seen.tokens), seen.mask)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the entries towards the cells that chose them; one that was not chosen stays (Laplace smoothing)."""
        for cells, codes in self._pending:
            counts = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(codes, dtype=self.counts.dtype))
            sums = torch.zeros_like(self.sums).index_add_(0, codes, cells)
            for table in (counts, sums):
                if world_size() > 1:
                    dist.all_reduce(table)
            self.counts.lerp_(counts, 1 - self.decay)
            self.sums.lerp_(sums, 1 - self.decay)
            total, size, small = self.counts.sum(), len(self.counts), 1e-5
            smooth = (self.counts + small) / (total + size * small) * total
            chosen = (counts > 0)[:, None]
            self.entries.copy_(torch.where(chosen, self.sums / smooth[:, None], self.entries))
            if self.revive:
                self._revived(cells)
        self._pending = []

    def _revived(self, cells: Tensor) -> None:
        """Put cells in the place of entries that hardly any chooses; every rank gives as many, evenly spaced."""
        idle = (self.counts < self.revive).nonzero()[:, 0]
        if not len(idle):
            return
        share = -(-len(idle) // world_size())
        found = gather(cells[torch.arange(share, device=cells.device) * len(cells) // share])[: len(idle)]
        self.entries[idle], self.sums[idle], self.counts[idle] = found, found, 1.0

    def discard_step(self) -> None:
        """Forget the cells of a step that is not taken."""
        self._pending = []

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Resample the grid's positions, in place."""
        self.grid.adapt_state(state, f"{prefix}grid.")
