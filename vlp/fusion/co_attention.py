"""Two streams that read each other: co-attention (ViLBERT, Lu 2019, section 2; METER, Dou 2022, section 3.1)."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.blocks import PostNormBlock, init_transformer
from vlp.layers.packing import Packing
from vlp.types import Fused, Stream


@dataclass
class PreparedImage:
    """The image tokens, projected to the fusion's width."""

    tokens: Tensor  # (B, N, D)
    mask: Tensor  # (B, N)

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def select(self, index: Tensor) -> "PreparedImage":
        """The images `index` (R,), in that order; one image may come several times."""
        return PreparedImage(self.tokens.index_select(0, index), self.mask.index_select(0, index))


class CoAttention(nn.Module):
    """Layers of two BERT blocks, one a side; each attends to itself, then to what the other side was before the layer.

    Gives `Fused(image, text, summary)`. The summary joins the tanh-pooled first tokens of both sides: side by side
    (`concat`, 2 D numbers, METER) or multiplied (`product`, D numbers, ViLBERT). The image side needs a first token
    that stands for the picture; with `mean_first` it is given the mean of its tokens as one, as ViLBERT's regions are.
    """

    def __init__(
        self,
        *,
        text_width: int = 768,
        image_width: int = 768,
        width: int = 768,
        image_inner: int | None = None,
        layers: int = 6,
        heads: int = 12,
        image_heads: int | None = None,
        image_hidden: int | None = None,
        dropout: float = 0.1,
        summary: Literal["concat", "product"] = "concat",
        mean_first: bool = False,
    ) -> None:
        super().__init__()
        inner = image_inner or width
        self.join = summary
        self.mean_first = mean_first
        self.checkpointing = False
        self.text_in = nn.Linear(text_width, width)
        self.image_in = nn.Linear(image_width, inner)
        self.text_layers = nn.ModuleList(
            PostNormBlock(width=width, heads=heads, hidden=4 * width, dropout=dropout, context_width=inner)
            for _ in range(layers)
        )
        self.image_layers = nn.ModuleList(
            PostNormBlock(
                width=inner,
                heads=image_heads or heads,
                hidden=image_hidden or 4 * inner,
                dropout=dropout,
                context_width=width,
            )
            for _ in range(layers)
        )
        pooled = width if summary == "concat" else max(width, inner)
        self.text_pooler = nn.Linear(width, pooled)
        self.image_pooler = nn.Linear(inner, pooled)
        init_transformer(self, width)

    def prepare(self, image: Stream) -> PreparedImage:
        """Project the image tokens, once for every pass that reads them."""
        tokens, mask = self.image_in(image.tokens), image.mask
        if self.mean_first:
            weight = mask.to(tokens.dtype)[..., None]
            mean = (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
            tokens, mask = torch.cat([mean, tokens], 1), torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return PreparedImage(tokens, mask)

    def forward(self, text: Stream, prepared: PreparedImage, image_index: Tensor | None = None) -> Fused:
        """R texts (R, L, D) with the images `image_index` (R,) of `prepared`; None pairs them in order."""
        if image_index is None and len(prepared) != text.mask.shape[0]:
            image_index = torch.zeros(text.mask.shape[0], dtype=torch.long, device=text.mask.device)
        image = prepared if image_index is None else prepared.select(image_index)
        words, cells = Packing.of(text.mask), Packing.of(image.mask)
        t, i = words.pack(self.text_in(text.tokens)), cells.pack(image.tokens)
        for text_layer, image_layer in zip(self.text_layers, self.image_layers, strict=True):
            t, i = self._run(text_layer, t, words, i, cells), self._run(image_layer, i, cells, t, words)
        text_out = Stream(words.restore(t, text.mask.shape[1]), text.mask)
        image_out = Stream(cells.restore(i, image.mask.shape[1]), image.mask)
        summary = self._summary(text_out.tokens[:, 0], image_out.tokens[:, 0])
        if self.mean_first:
            image_out = Stream(image_out.tokens[:, 1:], image_out.mask[:, 1:])
        return Fused(image_out, text_out, summary)

    def read(self, text: Stream, prepared: PreparedImage, image_index: Tensor | None, positions: Tensor) -> Tensor:
        """Fused tokens at text `positions` (R, L) bool, (M, D) in row order."""
        out: Tensor = self(text, prepared, image_index).text.tokens[positions]
        return out

    def summarize(self, text: Stream, prepared: PreparedImage, image_index: Tensor | None = None) -> Tensor:
        """The pair's summary, (R, D) or (R, 2 D)."""
        out: Tensor = self(text, prepared, image_index).summary
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def _summary(self, text: Tensor, image: Tensor) -> Tensor:
        one, two = torch.tanh(self.text_pooler(text)), torch.tanh(self.image_pooler(image))
        return one * two if self.join == "product" else torch.cat([one, two], dim=1)

    def _run(self, layer: nn.Module, tokens: Tensor, rows: Packing, other: Tensor, other_rows: Packing) -> Tensor:
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(_step, layer, tokens, rows, other, other_rows, use_reentrant=False)
            return out
        return _step(layer, tokens, rows, other, other_rows)


def _step(layer: nn.Module, tokens: Tensor, rows: Packing, other: Tensor, other_rows: Packing) -> Tensor:
    context = cast(PostNormBlock, layer).keys_values(other_rows.unpack(other))
    return cast(Tensor, layer(tokens, rows, context, other_rows.key_mask))
