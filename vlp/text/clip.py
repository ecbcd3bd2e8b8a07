"""CLIP's text transformer over packed tokens: norm before, causal or not (Radford 2021; SigLIP, Zhai 2023)."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.blocks import PreNormBlock, init_transformer
from vlp.layers.packing import Packing
from vlp.layers.prompts import Prompts
from vlp.types import Stream


class ClipEmbeddings(nn.Module):
    """Word and position embeddings, summed; nothing more."""

    def __init__(self, *, vocab_size: int, width: int, max_positions: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_positions, width)

    def forward(self, ids: Tensor, rows: Packing) -> Tensor:
        """(B, L) ids -> (T, D) embeddings of the tokens present."""
        if ids.shape[1] > self.position.num_embeddings:
            raise ValueError(f"{ids.shape[1]} tokens, but only {self.position.num_embeddings} positions")
        places = torch.arange(ids.shape[1], device=ids.device)
        out: Tensor = rows.pack(self.word(ids) + self.position(places))
        return out


class ClipText(nn.Module):
    """(B, L) ids -> Stream (B, L, D). Pool it with `LastPool`: its last token is the one that has read all.

    `causal` and `quick` (the sigmoid form of GELU) as in CLIP; SigLIP has neither. `prompts` learned tokens are read in
    front of the caption (`Prompts`).
    """

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        hidden: int | None = None,
        max_positions: int = 77,
        causal: bool = True,
        quick: bool = True,
        eps: float = 1e-5,
        prompts: int = 0,
    ) -> None:
        super().__init__()
        self.width = width
        self.vocab_size = vocab_size
        self.causal = causal
        self.checkpointing = False
        self.embeddings = ClipEmbeddings(vocab_size=vocab_size, width=width, max_positions=max_positions)
        self.layers = nn.ModuleList(
            PreNormBlock(width=width, heads=heads, hidden=hidden or 4 * width, eps=eps, quick=quick)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        init_transformer(self, width)
        self.prompts = Prompts(count=prompts, width=width) if prompts else None

    def forward(self, ids: Tensor, mask: Tensor) -> Stream:
        """(B, L) ids and mask to a stream."""
        rows = Packing.of(mask)
        tokens = self.embeddings(ids, rows)
        if self.prompts is not None:
            tokens, rows = self.prompts.before(tokens, rows, mask)
        reading = rows.causal() if self.causal else rows
        for layer in self.layers:
            if self.checkpointing and self.training:
                tokens = checkpoint(layer, tokens, reading, use_reentrant=False)
            else:
                tokens = layer(tokens, reading)
        tokens = self.norm(tokens)
        if self.prompts is not None:
            return Stream(self.prompts.without(tokens, rows, ids.shape[1]), mask)
        return Stream(rows.restore(tokens, ids.shape[1]), mask)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled
