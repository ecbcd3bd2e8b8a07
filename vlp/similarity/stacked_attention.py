"""Stacked cross attention, each fragment compared with what it reads of the other side (SCAN, Lee 2018, section 3.2).

With the focus of BFAN (Liu 2019, section 3.2). All functions speak of a query side of A items with Q fragments and a
source side of B items with S fragments; captions asking pictures and pictures asking captions are one formula. What is
read is never built: with cosines c, shares p and the Gram matrix G of an item's sources, the inner product of query and
context is sum p c, and the context's squared length p G p.
"""

from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream

Direction = Literal["text", "image", "both"]  # whose fragments ask
Pooling = Literal["lse", "mean", "max", "sum"]
Focus = Literal["none", "equal", "prob"]
TINY = 1e-8


def attention(cosines: Tensor, query_mask: Tensor, source_mask: Tensor, sharpness: float) -> Tensor:
    """(A, B, Q, S) cosines -> shares over the sources present, equations 1-3: a leaky ReLU, unit length over the
    queries present, softmax over the sources. `query_mask` (A, Q), `source_mask` (B, S)."""
    seen = F.leaky_relu(cosines, 0.1).masked_fill(~query_mask[:, None, :, None], 0.0)
    logits = sharpness * F.normalize(seen, dim=2)
    return F.softmax(logits.masked_fill(~source_mask[None, :, None], float("-inf")), dim=3)


def focused(shares: Tensor, source_mask: Tensor, focus: Focus) -> Tensor:
    """Shares (A, B, Q, S) of the fragments that matter, brought to sum 1 (BFAN, equations 6-8).

    A fragment stays where sum_t g(p_t) (p_s - p_t) > 0, with g = 1 ("equal") or sqrt ("prob"): in closed form where
    n p_s > 1, or p_s sum sqrt(p) > sum p^1.5.
    """
    if focus == "none":
        return shares
    if focus == "equal":
        keep = shares * source_mask.sum(1)[None, :, None, None] > 1
    else:
        root = (shares + torch.finfo(shares.dtype).tiny).sqrt()
        keep = shares * root.sum(3, keepdim=True) > (shares * root).sum(3, keepdim=True)
    # Equal shares are none above another; then all stay.
    kept = torch.where(keep.any(3, keepdim=True), shares * keep, shares)
    total: Tensor = kept.sum(3, keepdim=True)
    return kept / total


def relevance(query: Stream, source: Stream, sharpness: float, focus: Focus = "none") -> Tensor:
    """(A, Q, E) and (B, S, E) tokens -> (A, B, Q): cosine of each query with what it reads of each source item."""
    cosines = torch.einsum("aqe,bse->abqs", query.tokens, source.tokens)
    shares = focused(attention(cosines, query.mask, source.mask, sharpness), source.mask, focus)
    gram = source.tokens @ source.tokens.transpose(1, 2)
    length = (torch.einsum("abqs,bst->abqt", shares, gram) * shares).sum(3)
    scale = query.tokens.norm(dim=2)[:, None] * length.clamp(min=TINY**2).sqrt()
    found: Tensor = (shares * cosines).sum(3) / scale.clamp(min=TINY)
    return found


def context(query: Stream, source: Stream, sharpness: float) -> Tensor:
    """(A, Q, E) and (B, S, E) tokens -> (A, B, Q, E): what each query reads, for scorers that go on from there."""
    cosines = torch.einsum("aqe,bse->abqs", query.tokens, source.tokens)
    return torch.einsum("abqs,bse->abqe", attention(cosines, query.mask, source.mask, sharpness), source.tokens)


def pooled(values: Tensor, mask: Tensor, pooling: Pooling, sharpness: float = 1.0) -> Tensor:
    """(A, B, Q) values of the queries present (A, Q) -> (A, B). LSE: log sum exp(sharpness v) / sharpness, eq. 6."""
    gone = ~mask[:, None]
    if pooling == "lse":
        return torch.logsumexp((sharpness * values).masked_fill(gone, float("-inf")), 2) / sharpness
    if pooling == "max":
        return values.masked_fill(gone, float("-inf")).amax(2)
    total = values.masked_fill(gone, 0.0).sum(2)
    if pooling == "sum":
        return total
    if pooling == "mean":
        return total / mask.sum(1).clamp(min=1)[:, None]
    assert_never(pooling)


class StackedAttention(nn.Module):
    """The scorer of SCAN and BFAN. Both ways is the sum of the two. Holds no weights.

    `sharpness` is the papers' lambda_1 for words that ask, `image_sharpness` for regions that ask (by default the
    same), `lse` lambda_2. Unit tokens are expected (`TokenAdapter(unit=True)`).
    """

    def __init__(
        self,
        *,
        direction: Direction = "text",
        sharpness: float = 9.0,
        image_sharpness: float | None = None,
        pooling: Pooling = "mean",
        lse: float = 6.0,
        focus: Focus = "none",
    ) -> None:
        super().__init__()
        self.direction = direction
        self.sharpness = sharpness
        self.image_sharpness = sharpness if image_sharpness is None else image_sharpness
        self.pooling = pooling
        self.lse = lse
        self.focus = focus

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 5 * regions * words * (2 if self.direction == "both" else 1)

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        total = torch.zeros(len(image.mask), len(text.mask), device=image.mask.device, dtype=image.tokens.dtype)
        if self.direction != "image":
            found = relevance(text, image, self.sharpness, self.focus)
            total = total + pooled(found, text.mask, self.pooling, self.lse).T
        if self.direction != "text":
            found = relevance(image, text, self.image_sharpness, self.focus)
            total = total + pooled(found, image.mask, self.pooling, self.lse)
        return total
