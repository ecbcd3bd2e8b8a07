"""Two views of a pair: each side by itself, and both in one transformer (MMCA, Wei 2020, section 3.3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class JointAttention(nn.Module):
    """(R, K, E) -> (R, K, E): one transformer layer over the regions and words of a pair, normed after each step."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor, projected: Tensor | None = None) -> Tensor:
        """Tokens (R, K, E) of which `mask` (R, K) are there; `projected` (R, K, 3 E), theirs through `qkv` if known."""
        rows, count, width = tokens.shape
        projected = cast(Tensor, self.qkv(tokens)) if projected is None else projected
        heads = projected.view(rows, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        logits = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        shares = F.softmax(logits.masked_fill(~mask[:, None, None], float("-inf")), dim=-1)
        read = self.out((shares @ value).transpose(1, 2).reshape(rows, count, width))
        tokens = self.norm(tokens + read)
        return cast(Tensor, self.feed_forward_norm(tokens + self.feed_forward(tokens)))


class JointSimilarity(nn.Module):
    """The scorer of MMCA: v0 . t0 + alpha v1 . t1 with unit means of the fragments, v0 and t0 as they come, v1 and t1
    after `layers` joint transformer layers over the pair (equation 11)."""

    def __init__(self, *, width: int, heads: int = 8, layers: int = 1, alpha: float = 1.0) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(JointAttention(width=width, heads=heads) for _ in range(layers))
        self.alpha = alpha

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        count = regions + words
        return count * 10 * self.width + 2 * cast(JointAttention, self.layers[0]).heads * count**2

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        pictures, captions = unit_mean(image.tokens, image.mask), unit_mean(text.tokens, text.mask)
        shape, regions = (len(image.mask), len(text.mask)), image.mask.shape[1]
        mask, tokens = joined(image.mask, text.mask), joined(image.tokens, text.tokens)
        first = cast(JointAttention, self.layers[0])
        projected: Tensor | None = joined(first.qkv(image.tokens), first.qkv(text.tokens))  # once an item, not a pair
        for layer in self.layers:
            tokens, projected = cast(Tensor, layer(tokens, mask, projected)), None
        one = unit_mean(tokens[:, :regions], mask[:, :regions])
        two = unit_mean(tokens[:, regions:], mask[:, regions:])
        return pictures @ captions.T + self.alpha * (one * two).sum(1).view(shape)


def unit_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(R, K, E) -> (R, E): the mean of the tokens present, of length 1."""
    return F.normalize(tokens.masked_fill(~mask[..., None], 0.0).sum(1), dim=1)


def joined(image: Tensor, text: Tensor) -> Tensor:
    """(B, N, ...), (C, L, ...) -> (B C, N + L, ...): every item of one side with every item of the other."""
    shape = (len(image), len(text))
    one, two = image[:, None].expand(*shape, *image.shape[1:]), text[None].expand(*shape, *text.shape[1:])
    return torch.cat([one, two], 2).flatten(0, 1)
