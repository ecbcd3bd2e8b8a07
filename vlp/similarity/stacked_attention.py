"""Stacked cross attention, each fragment compared with what it reads of the other side (SCAN, Lee 2018, section 3.2).

With the focus of BFAN (Liu 2019, section 3.2). All functions speak of a query side of A items with Q fragments and a
source side of B items with S fragments; captions asking pictures and pictures asking captions are one formula. What is
read is never built: with cosines c, shares p and the Gram matrix G of an item's sources, the inner product of query and
context is sum p c, and the context's squared length p G p.
"""

from functools import cached_property
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream

Direction = Literal["text", "image", "both"]  # whose fragments ask
Pooling = Literal["lse", "mean", "max", "sum"]
Focus = Literal["none", "equal", "prob"]
TINY = 1e-8


class Side:
    """Items of one side, and what is made of them once for all items of the other. `whole`: no fragment is missing."""

    def __init__(self, stream: Stream, whole: bool = False) -> None:
        self.tokens = stream.tokens  # (A, Q, E)
        self.mask = stream.mask
        self.gone = None if whole else ~stream.mask  # (A, Q)

    @cached_property
    def gram(self) -> Tensor:
        """(A, Q, Q) inner products within each item."""
        return self.tokens @ self.tokens.transpose(1, 2)

    @cached_property
    def length(self) -> Tensor:
        """(A, Q) of each fragment."""
        length: Tensor = self.tokens.norm(dim=2)
        return length


def products(one: Tensor, two: Tensor) -> Tensor:
    """(A, Q, E), (B, S, E) -> (A, Q, B, S): every fragment with every other, in one matrix product."""
    found = one.flatten(0, 1) @ two.flatten(0, 1).T
    return found.view(*one.shape[:2], *two.shape[:2])


def shares_of(
    cosines: Tensor, asks: int, reads: int, query_gone: Tensor | None, source_gone: Tensor | None, sharpness: float
) -> Tensor:
    """Cosines -> shares over the sources present, equations 1-3: a leaky ReLU, unit length over the queries present
    (dimension `asks`), softmax over the sources (dimension `reads`). What is gone broadcasts to the cosines."""
    seen = F.leaky_relu(cosines, 0.1)
    if query_gone is not None:
        seen = seen.masked_fill(query_gone, 0.0)
    # F.normalize, its eps too, in fewer passes over the largest tensors that there are.
    logits = seen * (seen.square().sum(asks, keepdim=True).clamp(min=1e-24).rsqrt() * sharpness)
    if source_gone is not None:
        logits = logits.masked_fill(source_gone, float("-inf"))
    return F.softmax(logits, dim=reads)


def attention(cosines: Tensor, query_mask: Tensor, source_mask: Tensor, sharpness: float) -> Tensor:
    """`shares_of` (A, B, Q, S) cosines. `query_mask` (A, Q), `source_mask` (B, S)."""
    return shares_of(cosines, 2, 3, ~query_mask[:, None, :, None], ~source_mask[None, :, None], sharpness)


def focused(shares: Tensor, count: Tensor, focus: Focus, reads: int = 3) -> Tensor:
    """Shares over dimension `reads` of the fragments that matter, brought to sum 1 (BFAN, equations 6-8).

    A fragment stays where sum_t g(p_t) (p_s - p_t) > 0, with g = 1 ("equal") or sqrt ("prob"): in closed form where
    n p_s > 1, or p_s sum sqrt(p) > sum p^1.5. `count`, the n of each source item, broadcasts to the shares.
    """
    if focus == "none":
        return shares
    if focus == "equal":
        keep = shares * count > 1
    else:
        root = (shares + torch.finfo(shares.dtype).tiny).sqrt()
        keep = shares * root.sum(reads, keepdim=True) > (shares * root).sum(reads, keepdim=True)
    # Equal shares are none above another; then all stay.
    kept = torch.where(keep.any(reads, keepdim=True), shares * keep, shares)
    total: Tensor = kept.sum(reads, keepdim=True)
    return kept / total


def first_asks(cosines: Tensor, query: Side, source: Side, sharpness: float, focus: Focus = "none") -> Tensor:
    """(A, Q, B, S) cosines -> (A, B, Q): cosine of each query of the first side with what it reads of each item of the
    second."""
    query_gone = None if query.gone is None else query.gone[:, :, None, None]
    shares = shares_of(cosines, 1, 3, query_gone, source.gone, sharpness)
    shares = focused(shares, source.mask.sum(1)[:, None], focus, reads=3)
    rows = shares.flatten(0, 1).transpose(0, 1)  # (B, A Q, S)
    squared = ((rows @ source.gram) * rows).sum(2).T.unflatten(0, shares.shape[:2])
    return _cosine((shares * cosines).sum(3), query.length[:, :, None], squared).transpose(1, 2)


def second_asks(cosines: Tensor, source: Side, query: Side, sharpness: float, focus: Focus = "none") -> Tensor:
    """(B, S, A, Q) cosines -> (A, B, Q): the same where the second side asks the first."""
    source_gone = None if source.gone is None else source.gone[:, :, None, None]
    shares = shares_of(cosines, 3, 1, query.gone, source_gone, sharpness)
    shares = focused(shares, source.mask.sum(1)[:, None, None, None], focus, reads=1)
    columns = shares.flatten(2)  # (B, S, A Q)
    squared = ((source.gram @ columns) * columns).sum(1).unflatten(1, shares.shape[2:])
    return _cosine((shares * cosines).sum(1), query.length, squared).transpose(0, 1)


def _cosine(inner: Tensor, length: Tensor, squared: Tensor) -> Tensor:
    return inner / (length * squared.clamp(min=TINY**2).sqrt()).clamp(min=TINY)


def relevance(query: Stream, source: Stream, sharpness: float, focus: Focus = "none") -> Tensor:
    """(A, Q, E) and (B, S, E) tokens -> (A, B, Q): cosine of each query with what it reads of each source item."""
    return first_asks(products(query.tokens, source.tokens), Side(query), Side(source), sharpness, focus)


def cosines_read(shares: Tensor, inner: Tensor, length: Tensor, gram: Tensor) -> Tensor:
    """(B, Q) cosines of queries with what they read by (B, Q, S) shares: `inner` (B, Q, S) their products with the
    sources, `length` (Q,) theirs, `gram` (B, S, S) the sources' products. What is read is not built."""
    return _cosine((shares * inner).sum(2), length, ((shares @ gram) * shares).sum(2))


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
        """(B, N, E), (C, L, E) -> (B, C). On a CPU captions of one length are scored together, without their padding;
        an accelerator is faster at one padded block than at many small ones. A caption without words goes padded."""
        if len(text.mask) == 1 or text.mask.device.type != "cpu" or not bool(text.mask.any(1).all()):
            return self._scores(products(text.tokens, image.tokens), Side(text), Side(image))
        counts, order = text.mask.sum(1).sort(stable=True)
        lengths, sizes = (found.tolist() for found in counts.unique_consecutive(return_counts=True))
        rows, places = text.mask[order].nonzero(as_tuple=True)
        words = text.tokens[order[rows], places]  # (T, E): those present, captions of one length side by side
        pictures, found = Side(image, whole=bool(image.mask.all())), []
        blocks = [length * size for length, size in zip(lengths, sizes, strict=True)]
        cosines = products(words[None], image.tokens)[0].split(blocks)  # (l c, B, N) each
        for length, some, tokens in zip(lengths, cosines, words.split(blocks), strict=True):
            captions = Stream(tokens.unflatten(0, (-1, length)), tokens.new_ones(len(tokens) // length, length) > 0)
            found.append(self._scores(some.unflatten(0, (-1, length)), Side(captions, whole=True), pictures))
        return torch.cat(found, 1)[:, order.argsort()]

    def _scores(self, cosines: Tensor, text: Side, image: Side) -> Tensor:
        """(C, L, B, N) cosines -> (B, C)."""
        total = cosines.new_zeros(len(image.mask), len(text.mask))
        if self.direction != "image":
            found = first_asks(cosines, text, image, self.sharpness, self.focus)
            total = total + pooled(found, text.mask, self.pooling, self.lse).T
        if self.direction != "text":
            found = second_asks(cosines, text, image, self.image_sharpness, self.focus)
            total = total + pooled(found, image.mask, self.pooling, self.lse)
        return total
