"""Convolutions over one, two and three neighbouring words (SAEM, Wu 2019; MMCA, Wei 2020, section 3.2; DIME)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class NGrams(nn.Module):
    """Stream (B, L, D) -> Stream (B, L, 3 E): ReLU of a convolution of each length, the words behind a caption zero.

    `width` D, `channels` E of each length. A window starts at its word, so that the last words see zeros behind them.
    """

    def __init__(self, *, width: int, channels: int, lengths: tuple[int, ...] = (1, 2, 3)) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, length) for length in lengths)

    def forward(self, stream: Stream) -> Stream:
        """Stream to stream."""
        words = stream.tokens.masked_fill(~stream.mask[..., None], 0.0).transpose(1, 2)  # (B, D, L)
        found = [_read(cast(nn.Conv1d, convolution), words) for convolution in self.convolutions]
        tokens = torch.cat(found, 1).transpose(1, 2)
        return Stream(tokens.masked_fill(~stream.mask[..., None], 0.0), stream.mask)


def _read(convolution: nn.Conv1d, words: Tensor) -> Tensor:
    behind = convolution.kernel_size[0] - 1
    return F.relu(convolution(F.pad(words, (0, behind))))
