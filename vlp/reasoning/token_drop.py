"""Fewer tokens in training: the same number of randomly chosen ones of each row, the others are not computed."""

import torch
from torch import Tensor, nn

from vlp.types import Stream


class TokenDrop(nn.Module):
    """Stream (B, N, D) -> Stream (B, 1 + keep, D) in training, unchanged in evaluation.

    The first token ([CLS]) stays, and `keep` of the others, drawn uniformly. What is not there is drawn last. The size
    augmentation of VSE-infinity (Chen 2021, section 3.3) at a fixed number, so that every row's work shrinks alike.
    """

    def __init__(self, *, keep: int) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, stream: Stream) -> Stream:
        """Stream to stream; a row with fewer tokens keeps them all."""
        if not self.training or self.keep + 1 >= stream.mask.shape[1]:
            return stream
        places = _drawn(stream.mask, self.keep)
        tokens = stream.tokens.gather(1, places[..., None].expand(-1, -1, stream.tokens.shape[2]))
        return Stream(tokens, stream.mask.gather(1, places))


def _drawn(mask: Tensor, keep: int) -> Tensor:
    """(B, 1 + keep) places: 0 and `keep` others, present ones first."""
    order = torch.rand(mask.shape, device=mask.device) + (~mask).float()
    order[:, 0] = -1.0
    return order.topk(keep + 1, dim=1, largest=False, sorted=False).indices
