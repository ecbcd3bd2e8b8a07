"""BERT's text encoder over packed tokens, of any depth; depth 0 is the embedding alone (ViLT)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.bert_weights import bert_embeddings, bert_layers, read_bert
from vlp.layers.blocks import PostNormBlock, init_transformer
from vlp.layers.levels import check_levels
from vlp.layers.packing import Packing
from vlp.layers.prompts import Prompts, own_prompts
from vlp.types import Stream, Tags


class BertEmbeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised. Captions are the first segment, tags the second."""

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        max_positions: int,
        dropout: float,
        tags: bool = False,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_positions, width)
        self.segment = nn.Parameter(torch.zeros(width))
        if tags:
            self.tag_segment = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, rows: Packing, tags: bool = False) -> Tensor:
        """(B, L) ids -> (T, D) embeddings of the tokens present."""
        if ids.shape[1] > self.position.num_embeddings:
            raise ValueError(f"{ids.shape[1]} tokens, but only {self.position.num_embeddings} positions")
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        words = self.word(rows.pack(ids[..., None])[:, 0])
        positions = self.position(rows.pack(places.reshape(*ids.shape, 1))[:, 0])
        out: Tensor = self.dropout(self.norm(words + positions + (self.tag_segment if tags else self.segment)))
        return out


class BertText(nn.Module):
    """(B, L) ids -> Stream (B, L, D), [CLS] first.

    `weights` is a Hugging Face folder (config.json, model.safetensors) of a BERT, or of a RoBERTa (`eps` 1e-5, and two
    positions less than its config says); its embeddings and its layers [0, layers) are read. The layers behind them can
    start a fusion (`CrossFusion`), which is ALBEF's split of BERT.
    `tags` makes room for a second segment (`embed_tags`); `causal` lets a token read no later one (CoCa, Miech 2021).
    With `frozen_layers` the embeddings and so many of the first layers stay as they were read, without dropout.
    With `levels` a token is what it was after each of these layers (0 the embeddings; the last layer the last of them)
    side by side: K D numbers for K levels. `prompts` learned tokens are read in front of the caption (`Prompts`).
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        width: int = 768,
        layers: int = 6,
        heads: int = 12,
        hidden: int | None = None,
        max_positions: int = 512,
        dropout: float = 0.1,
        weights: str | None = None,
        frozen_layers: int = 0,
        tags: bool = False,
        causal: bool = False,
        levels: Sequence[int] = (),
        eps: float = 1e-12,
        prompts: int = 0,
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.levels = check_levels(levels, 0, layers)
        self.width = width * max(len(self.levels), 1)
        self.frozen_layers = frozen_layers
        self.causal = causal
        self.vocab_size = vocab_size
        self.checkpointing = False
        self.embeddings = BertEmbeddings(
            vocab_size=vocab_size, width=width, max_positions=max_positions, dropout=dropout, tags=tags, eps=eps
        )
        self.layers = nn.ModuleList(
            PostNormBlock(width=width, heads=heads, hidden=hidden, dropout=dropout, eps=eps) for _ in range(layers)
        )
        init_transformer(self, width)
        self.prompts = Prompts(count=prompts, width=width) if prompts else None
        if weights is not None:
            state = read_bert(weights)
            self.load_state_dict(bert_embeddings(state, tags) | bert_layers(state, 0, layers) | own_prompts(self))
        for part in self._frozen():
            part.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [self.embeddings, *self.layers[: self.frozen_layers]] if self.frozen_layers else []

    def train(self, mode: bool = True) -> "BertText":
        """Frozen layers stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Stream:
        """(B, L) ids and mask to a stream."""
        rows = Packing.of(mask)
        tokens = self.embeddings(ids, rows)
        if self.prompts is not None:
            tokens, rows = self.prompts.before(tokens, rows, mask)
        reading = rows.causal() if self.causal else rows
        reached = [tokens] if 0 in self.levels else []
        for number, layer in enumerate(self.layers, start=1):
            if self.checkpointing and self.training:
                tokens = checkpoint(layer, tokens, reading, use_reentrant=False)
            else:
                tokens = layer(tokens, reading)
            if number in self.levels:
                reached.append(tokens)
        tokens = torch.cat(reached or [tokens], dim=-1)
        if self.prompts is not None:
            return Stream(self.prompts.without(tokens, rows, ids.shape[1]), mask)
        return Stream(rows.restore(tokens, ids.shape[1]), mask)

    def embed_tags(self, tags: Tags) -> Stream:
        """(P, T) tags to a stream (P, T, D): their embeddings alone, in the second segment."""
        rows = Packing.of(tags.mask)
        return Stream(rows.restore(self.embeddings(tags.ids, rows, tags=True), tags.mask.shape[1]), tags.mask)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled
