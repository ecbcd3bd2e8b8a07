"""From fragments to wholes, step by step (SHAN, Ji 2021, section 3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.pooling.gated import GatedPool
from vlp.similarity.stacked_attention import pooled, relevance
from vlp.types import Stream


class StepwiseAlignment(nn.Module):
    """The scorer of SHAN: fragments with fragments both ways, as SCAN; each whole with what it reads of the other
    side's fragments; and the wholes, each mixed with what was read for it, with each other. The sum of the five.

    A whole is the gated pooling of its side. The paper's text leaves the mixture open; here it is a gate per dimension.
    """

    def __init__(
        self, *, width: int, sharpness: float = 9.0, image_sharpness: float = 4.0, dropout: float = 0.4
    ) -> None:
        super().__init__()
        self.width = width
        self.sharpness = sharpness
        self.image_sharpness = image_sharpness
        self.image_pool = GatedPool(width=width, dropout=dropout)
        self.text_pool = GatedPool(width=width, dropout=dropout)
        self.image_gate = nn.Linear(2 * width, width)
        self.text_gate = nn.Linear(2 * width, width)

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 10 * regions * words + 12 * self.width

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        words = pooled(relevance(text, image, self.sharpness), text.mask, "mean").T
        regions = pooled(relevance(image, text, self.image_sharpness), image.mask, "mean")
        picture = F.normalize(self.image_pool(image), dim=1)
        caption = F.normalize(self.text_pool(text), dim=1)
        seen = look(caption, image, self.sharpness).transpose(0, 1)  # (B, C, E): what the caption sees of the picture
        told = look(picture, text, self.image_sharpness)  # (B, C, E): what the picture finds in the caption
        to_parts = F.cosine_similarity(caption[None], seen, dim=2) + F.cosine_similarity(picture[:, None], told, dim=2)
        one = mixed(self.image_gate, picture[:, None].expand_as(seen), seen)
        two = mixed(self.text_gate, caption[None].expand_as(told), told)
        return words + regions + to_parts + F.cosine_similarity(one, two, dim=2)


def look(whole: Tensor, source: Stream, sharpness: float) -> Tensor:
    """(A, E) wholes and (B, S, E) fragments -> (A, B, E): what each whole reads, by softmax(sharpness * cosine)."""
    cosines = torch.einsum("ae,bse->abs", whole, F.normalize(source.tokens, dim=2))
    shares = F.softmax((sharpness * cosines).masked_fill(~source.mask[None], float("-inf")), dim=2)
    return torch.einsum("abs,bse->abe", shares, source.tokens)


def mixed(gate: nn.Module, whole: Tensor, read: Tensor) -> Tensor:
    """g * whole + (1 - g) * read with g = sigmoid(W [whole; read])."""
    share = torch.sigmoid(cast(Tensor, gate(torch.cat([whole, read], -1))))
    return share * whole + (1 - share) * read
