"""Self- and cross-attention over packed tokens, through scaled_dot_product_attention."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.packing import Packing


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """(B, H, L, d) queries over (B, H, N, d) keys and values.

    In bf16 on a CPU by plain products: the fused kernel's backward is many times slower there (docs/decisions.md).
    """
    if q.device.type == "cpu" and q.dtype is torch.bfloat16:
        return _attend_plainly(q, k, v, mask, dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """The same by two products of contiguous matrices, with the softmax in fp32."""
    q, k, v = (x.contiguous() for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = q @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
    return (F.dropout(weights, dropout) if dropout else weights) @ v


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D / H)."""
    return tokens.view(tokens.shape[0], tokens.shape[1], heads, -1).transpose(1, 2)


def _merge(tokens: Tensor) -> Tensor:
    """(B, H, N, D / H) -> (B, N, D)."""
    return tokens.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each row of a packing."""

    def __init__(self, *, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rows: Packing) -> Tensor:
        """(T, D) -> (T, D)."""
        q, k, v = rows.unpack(self.qkv(tokens)).chunk(3, dim=-1)
        return cast(Tensor, self.out(rows.repack(self._attend(q, k, v, rows))))

    def read(self, tokens: Tensor, rows: Packing, queries: Tensor, query_rows: Packing) -> Tensor:
        """(T, D) keys and values, (M, D) queries -> (M, D): only the outputs that somebody reads."""
        width = tokens.shape[-1]
        q = F.linear(queries, self.qkv.weight[:width], self.qkv.bias[:width])
        k, v = rows.unpack(F.linear(tokens, self.qkv.weight[width:], self.qkv.bias[width:])).chunk(2, dim=-1)
        return cast(Tensor, self.out(query_rows.repack(self._attend(query_rows.unpack(q), k, v, rows))))

    def affinities(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, N): what the softmax over the keys is taken of, row by row."""
        width = tokens.shape[-1]
        q, k = F.linear(tokens, self.qkv.weight[: 2 * width], self.qkv.bias[: 2 * width]).chunk(2, dim=-1)
        q, k = _heads(q * (width // self.heads) ** -0.5, self.heads), _heads(k, self.heads)
        return q @ k.transpose(-1, -2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Packing) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q, k, v = (_heads(x, self.heads) for x in (q, k, v))
        return _merge(attend(q, k, v, rows.key_mask, dropout))


class KeysValues(NamedTuple):
    """Keys and values of the images for one cross-attention layer, each (B, H, N, D / H).

    A tuple, so that the hooks by which FSDP2 and ZeRO-3 gather a block's weights see the tensors in it.
    """

    keys: Tensor
    values: Tensor

    def select(self, index: Tensor) -> "KeysValues":
        """Rows `index` (R,) of the images."""
        return KeysValues(self.keys.index_select(0, index), self.values.index_select(0, index))


class CrossAttention(nn.Module):
    """Queries from packed tokens, keys and values projected beforehand and shared by every pass over an image."""

    def __init__(self, *, width: int, heads: int, context_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, context: Tensor) -> KeysValues:
        """(B, N, D_context) -> keys and values, computed once an image whatever the number of passes."""
        k, v = self.kv(context).chunk(2, dim=-1)
        return KeysValues(_heads(k, self.heads), _heads(v, self.heads))

    def forward(self, tokens: Tensor, rows: Packing, context: KeysValues, context_mask: Tensor | None) -> Tensor:
        """(T, D) queries over R rows and R images -> (T, D). `context_mask`: (R, 1, 1, N) bool or None for all.

        A single image under many rows is read by all their tokens as one long query: exact, because queries never
        mix, and free of padding.
        """
        dropout = self.dropout if self.training else 0.0
        q = self.q(tokens)
        one_image = context.keys.shape[0] == 1
        q = _heads(q[None] if one_image else rows.unpack(q), self.heads)
        read = attend(q, context.keys, context.values, context_mask, dropout)
        return cast(Tensor, self.out(_merge(read)[0] if one_image else rows.repack(_merge(read))))
