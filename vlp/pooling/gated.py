"""Self-attention pooling gated by the mean: which tokens speak for the whole? (SGRAF, Diao 2021; CVSE, Wang 2020)"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.pooling.tokens import MeanPool
from vlp.types import Stream


class GatedPool(nn.Module):
    """(B, N, D) -> (B, D): softmax(w (tanh(W1 x) * tanh(W2 mean))) over the tokens present weighs them.

    SGRAF's visual and textual self-attention, equation 1, and CVSE's instance features. Their batch norm over the slot
    of a region is left out: it ties the layer to one number of regions and a loss to the other rows of a batch.
    """

    def __init__(self, *, width: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.local = nn.Linear(width, width)
        self.whole = nn.Linear(width, width)
        self.weigh = nn.Linear(width, 1, bias=False)  # a softmax sees no shift
        self.dropout = nn.Dropout(dropout)

    def weights(self, stream: Stream) -> Tensor:
        """(B, N) shares, zero under the mask."""
        local = self.dropout(torch.tanh(self.local(stream.tokens)))
        whole = self.dropout(torch.tanh(self.whole(MeanPool()(stream))))[:, None]
        scores = self.weigh(local * whole)[..., 0]
        return F.softmax(scores.masked_fill(~stream.mask, float("-inf")), dim=1)

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        present = stream.tokens.masked_fill(~stream.mask[..., None], 0.0)
        return torch.einsum("bn,bnd->bd", self.weights(stream), present)
