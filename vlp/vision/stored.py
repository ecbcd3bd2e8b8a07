"""Image tokens that a frozen encoder made once, and whoever trains the heads stored."""

import torch
from torch import Tensor, nn

from vlp.types import Batch, Stream


class StoredImage(nn.Module):
    """`Batch.features` (P, N, D) as a stream, every token present."""

    def forward(self, batch: Batch) -> Stream:
        """Raises ValueError for a batch without them."""
        if batch.features is None:
            raise ValueError("this model reads stored image tokens, and the batch has none (Batch.features)")
        tokens = batch.features
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing hangs on a picture's size."""
