"""Generalised pooling: weights over ranks, learned (VSE-infinity, Chen 2021, section 3.2, equations 4-6)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vlp.types import Stream


def position_code(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width) sines at even places and cosines at odd ones of position / 10000^(2 i / width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class GPO(nn.Module):
    """(B, N, D) -> (B, D): each dimension's values in falling order, weighed by rank and summed.

    The weights are a softmax over the ranks 1 .. n of a row with n tokens, of what a small GRU that reads both ways
    makes of the ranks' position codes: mean and max pooling are two of its settings.
    """

    def __init__(self, *, code_width: int = 32, hidden: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.code_width = code_width
        self.temperature = temperature
        self.gru = nn.GRU(code_width, hidden, batch_first=True, bidirectional=True)
        self.weigh = nn.Linear(hidden, 1, bias=False)

    def weights(self, mask: Tensor) -> Tensor:
        """(B, N) present tokens -> (B, N) weights of the ranks; zero behind a row's number of tokens."""
        lengths, row = mask.sum(1).unique(return_inverse=True)
        codes = position_code(int(lengths.max()), self.code_width, mask.device)
        packed = pack_padded_sequence(
            codes.to(self.weigh.weight.dtype).expand(len(lengths), -1, -1),
            lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        scores = self.weigh(torch.stack(states.chunk(2, dim=-1)).mean(0))[..., 0] / self.temperature
        behind = torch.arange(scores.shape[1], device=mask.device) >= lengths[:, None]
        weights = F.softmax(scores.masked_fill(behind, float("-inf")), dim=1)
        return F.pad(weights, (0, mask.shape[1] - weights.shape[1])).index_select(0, row)

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        ordered = stream.tokens.masked_fill(~stream.mask[..., None], float("-inf")).sort(dim=1, descending=True).values
        ranked = torch.arange(ordered.shape[1], device=ordered.device) < stream.mask.sum(1, keepdim=True)
        ordered = ordered.masked_fill(~ranked[..., None], 0.0)  # 0 x -inf would be NaN
        return torch.einsum("bn,bnd->bd", self.weights(stream.mask).to(ordered.dtype), ordered)
