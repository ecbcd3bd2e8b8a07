"""Transformer blocks over packed tokens: BERT's (norm after), with or without cross-attention, and ViT's (before)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.attention import CrossAttention, KeysValues, SelfAttention
from vlp.layers.packing import Packing


class FeedForward(nn.Module):
    """Linear, GELU (or CLIP's quick form of it, x sigmoid(1.702 x)), linear."""

    def __init__(self, *, width: int, hidden: int, quick: bool = False) -> None:
        super().__init__()
        self.quick = quick
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        up = self.up(tokens)
        return cast(Tensor, self.down(up * torch.sigmoid(1.702 * up) if self.quick else F.gelu(up)))


class PostNormBlock(nn.Module):
    """BERT's layer (Devlin 2018): self-attention, optional cross-attention, feed-forward, each with add and norm."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        context_width: int | None = None,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width=width, heads=heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        if context_width is not None:
            self.cross = CrossAttention(width=width, heads=heads, context_width=context_width, dropout=dropout)
            self.cross_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width=width, hidden=hidden)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, rows: Packing, context: KeysValues | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """(T, D) -> (T, D)."""
        tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens, rows)))
        return self._rest(tokens, rows, context, context_mask)

    def keys_values(self, context: Tensor) -> KeysValues:
        """(B, N, D_context) image tokens to the keys and values that `forward` and `read` take as context."""
        return self.cross.keys_values(context)

    def read(
        self,
        tokens: Tensor,
        rows: Packing,
        index: Tensor,
        query_rows: Packing,
        context: KeysValues | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """(T, D) -> (M, D): the layer's output at the packed places `index` (M,) only."""
        queries = tokens.index_select(0, index)
        attended = self.attention.read(tokens, rows, queries, query_rows)
        queries = self.attention_norm(queries + self.dropout(attended))
        return self._rest(queries, query_rows, context, context_mask)

    def affinities(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, N): how much its tokens ask for each other, before the softmax."""
        return self.attention.affinities(tokens)

    def _rest(self, tokens: Tensor, rows: Packing, context: KeysValues | None, mask: Tensor | None) -> Tensor:
        if context is not None:
            tokens = self.cross_norm(tokens + self.dropout(self.cross(tokens, rows, context, mask)))
        return cast(Tensor, self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens))))


class PreNormBlock(nn.Module):
    """ViT's block (Dosovitskiy 2020): normalise, attend, add; normalise, feed forward, add."""

    def __init__(
        self, *, width: int, heads: int, hidden: int, dropout: float = 0.0, eps: float = 1e-6, quick: bool = False
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width=width, heads=heads, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width=width, hidden=hidden, quick=quick)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, rows: Packing) -> Tensor:
        """(T, D) -> (T, D)."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), rows))
        return cast(Tensor, tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens))))

    def read(self, tokens: Tensor, rows: Packing, index: Tensor, query_rows: Packing) -> Tensor:
        """(T, D) -> (M, D): the block's output at the packed places `index` (M,) only."""
        normed = self.attention_norm(tokens)
        attended = self.attention.read(normed, rows, normed.index_select(0, index), query_rows)
        queries = tokens.index_select(0, index) + self.dropout(attended)
        return cast(Tensor, queries + self.dropout(self.feed_forward(self.feed_forward_norm(queries))))

    def affinities(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, N): how much its tokens ask for each other, before the softmax."""
        return self.attention.affinities(self.attention_norm(tokens))


def init_transformer(module: nn.Module, width: int) -> None:
    """BERT's initialisation: normal weights, zero biases. The deviation is BERT's 0.02 at width 768 and keeps the gain
    of a layer at any other width: with 0.02 at width 96 a branch hands on 4 % of its input and learns slowly."""
    std = 0.02 * (768 / width) ** 0.5
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
