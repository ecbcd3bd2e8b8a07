"""Transformer layers over the tokens of one side (SAEM, Wu 2019, section 3.2; the self-attention module of MMCA)."""

from typing import cast

from torch import Tensor, nn

from vlp.layers.blocks import PostNormBlock, init_transformer
from vlp.layers.packing import Packing
from vlp.types import Stream


class TransformerReasoner(nn.Module):
    """Stream (B, N, D) -> Stream (B, N, D): BERT's layers, without positions: regions have no order."""

    def __init__(
        self, *, width: int, layers: int = 1, heads: int = 16, hidden: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PostNormBlock(width=width, heads=heads, hidden=hidden or 4 * width, dropout=dropout) for _ in range(layers)
        )
        init_transformer(self, width)

    def forward(self, stream: Stream) -> Stream:
        """Stream to stream."""
        rows = Packing.of(stream.mask)
        tokens = rows.pack(stream.tokens)
        for layer in self.layers:
            tokens = cast(Tensor, layer(tokens, rows))
        return Stream(rows.restore(tokens, stream.mask.shape[1]), stream.mask)
