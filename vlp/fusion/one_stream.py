"""One stream: words and image tokens side by side in one transformer (ViLT, Kim 2021; UNITER, Chen 2020)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.fusion.summary import Summary, places, summarized
from vlp.layers.bert_weights import bert_layers, read_bert
from vlp.layers.blocks import PostNormBlock, PreNormBlock, init_transformer
from vlp.layers.packing import Packing
from vlp.layers.vit_weights import check_shapes, read_vit, vit_layers
from vlp.types import Fused, Stream


@dataclass
class PreparedTokens:
    """Per-image work of a one-stream fusion: the image tokens with their modality embedding."""

    tokens: Tensor  # (B, N, D)
    mask: Tensor  # (B, N)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def select(self, index: Tensor) -> "PreparedTokens":
        """The images `index` (R,), in that order; one image may come several times."""
        return PreparedTokens(self.tokens.index_select(0, index), self.mask.index_select(0, index))


class OneStream(nn.Module):
    """A joint transformer over [text ; image]. Gives `Fused(image, text, tanh-pooled [CLS] or mean of the text)`.

    Blocks are a ViT's (norm before, and one at the end), or with `post_norm` BERT's. They may start from `weights`, a
    timm ViT's safetensors file or a Hugging Face BERT folder.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int | None = None,
        dropout: float = 0.1,
        post_norm: bool = False,
        weights: str | None = None,
        summary: Summary = "cls",
    ) -> None:
        super().__init__()
        if weights is not None and not post_norm and Path(weights).is_dir():
            raise ValueError("a BERT's folder fits post-norm blocks only; set post_norm=true, or give a ViT's file")
        self.width = width
        self.summary = summary
        self.checkpointing = False
        self.modality = nn.Parameter(torch.empty(2, width))
        block = PostNormBlock if post_norm else PreNormBlock
        self.layers = nn.ModuleList(
            block(width=width, heads=heads, hidden=hidden or 4 * width, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width, eps=1e-6)
        self.pooler = nn.Linear(width, width)
        init_transformer(self, width)
        nn.init.normal_(self.modality, std=0.02)
        if weights is not None:
            given = bert_layers(read_bert(weights), 0, layers) if post_norm else vit_layers(read_vit(weights), layers)
            check_shapes(self.state_dict(), given, weights)
            missing = self.load_state_dict(given, strict=False)
            assert not missing.unexpected_keys

    def prepare(self, image: Stream) -> PreparedTokens:
        """Mark the image tokens as such; the joint layers cannot start before the text is known."""
        return PreparedTokens(image.tokens + self.modality[1], image.mask)

    def forward(self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None = None) -> Fused:
        """R texts (R, L, D) with the images `image_index` (R,) of `prepared`; None pairs them in order."""
        mask, rows, tokens = self._enter(text, prepared, image_index)
        for layer in self.layers:
            tokens = self._run(layer, tokens, rows)
        joint, length = rows.restore(self.norm(tokens), mask.shape[1]), text.mask.shape[1]
        image, words = Stream(joint[:, length:], mask[:, length:]), Stream(joint[:, :length], text.mask)
        read = places(text.mask, self.summary)
        return Fused(image, words, self._pool(words.tokens[read], read))

    def decode(self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None = None) -> Tensor:
        """(R, L, D) where image tokens read each other and a word the image and the words up to itself (UNIMO)."""
        mask, rows, tokens = self._enter(text, prepared, image_index)
        image = torch.ones_like(mask)
        image[:, : text.mask.shape[1]] = False
        reading = rows.causal(rows.pack(image[..., None])[:, 0])
        for layer in self.layers:
            tokens = self._run(layer, tokens, reading)
        return rows.restore(self.norm(tokens), mask.shape[1])[:, : text.mask.shape[1]]

    def read(self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None, positions: Tensor) -> Tensor:
        """Fused tokens at text `positions` (R, L) bool only, (M, D) in row order: the last layer runs nowhere else."""
        mask, rows, tokens = self._enter(text, prepared, image_index)
        for layer in self.layers[:-1]:
            tokens = self._run(layer, tokens, rows)
        wanted = torch.zeros_like(mask)
        wanted[:, : positions.shape[1]] = positions
        index = rows.pack(wanted[..., None])[:, 0].nonzero().squeeze(1)
        last: PreNormBlock | PostNormBlock = self.layers[-1]  # type: ignore[assignment]
        out: Tensor = self.norm(last.read(tokens, rows, index, Packing.of(positions)))
        return out

    def affinities(self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None = None) -> Tensor:
        """(R, H, L + N, L + N) before the softmax: how much the last layer's tokens ask for each other, those of the
        text first. What stands at padding means nothing. A pass of its own, so that no other one keeps attentions."""
        mask, rows, tokens = self._enter(text, prepared, image_index)
        for layer in self.layers[:-1]:
            tokens = self._run(layer, tokens, rows)
        last: PreNormBlock | PostNormBlock = self.layers[-1]  # type: ignore[assignment]
        return last.affinities(rows.restore(tokens, mask.shape[1]))

    def apart(self, prepared: PreparedTokens) -> Stream:
        """(B, N, D) what the layers make of each image token alone: what it shows, and nothing of its neighbours."""
        shape = prepared.tokens.shape
        single = Packing.of(prepared.mask.reshape(-1, 1))
        tokens = single.pack(prepared.tokens.reshape(-1, 1, shape[-1]))
        for layer in self.layers:
            tokens = self._run(layer, tokens, single)
        return Stream(single.restore(self.norm(tokens), 1).reshape(shape), prepared.mask)

    def summarize(self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None = None) -> Tensor:
        """The pair's pooled summary, (R, D)."""
        read = places(text.mask, self.summary)
        return self._pool(self.read(text, prepared, image_index, read), read)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def _pool(self, tokens: Tensor, read: Tensor) -> Tensor:
        return torch.tanh(self.pooler(summarized(tokens, read)))

    def _enter(
        self, text: Stream, prepared: PreparedTokens, image_index: Tensor | None
    ) -> tuple[Tensor, Packing, Tensor]:
        if image_index is None and len(prepared) != text.mask.shape[0]:
            image_index = torch.zeros(text.mask.shape[0], dtype=torch.long, device=text.mask.device)
        image = prepared if image_index is None else prepared.select(image_index)
        mask = torch.cat([text.mask, image.mask], dim=1)
        rows = Packing.of(mask)
        return mask, rows, rows.pack(torch.cat([text.tokens + self.modality[0], image.tokens], dim=1))

    def _run(self, layer: nn.Module, tokens: Tensor, rows: Packing) -> Tensor:
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(layer, tokens, rows, use_reentrant=False)
            return out
        out = layer(tokens, rows)
        return out
