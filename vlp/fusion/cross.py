"""Text reads image: self-attention over words, cross-attention to the image, feed-forward (ALBEF, section 3.1)."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.fusion.summary import Summary, places, summarized
from vlp.layers.attention import KeysValues
from vlp.layers.bert_weights import bert_layers, read_bert
from vlp.layers.blocks import PostNormBlock, init_transformer
from vlp.layers.packing import Packing
from vlp.layers.standardize import Standardize
from vlp.types import Fused, Stream


@dataclass
class PreparedKeysValues:
    """Per-image work of a cross-attention fusion: keys and values of every layer, for B images."""

    layers: list[KeysValues]
    mask: Tensor | None  # (B, 1, 1, N) bool, None where every token is present

    def __len__(self) -> int:
        return int(self.layers[0].keys.shape[0])

    def select(self, index: Tensor) -> "PreparedKeysValues":
        """The images `index` (R,), in that order; one image may come several times."""
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return PreparedKeysValues([layer.select(index) for layer in self.layers], mask)


class CrossFusion(nn.Module):
    """A stack of BERT layers with cross-attention. Gives `Fused(None, text, [CLS] or mean)`.

    `weights` is a Hugging Face BERT folder whose layers [first_layer, first_layer + layers) start the self-attention
    and feed-forward parts; the cross-attention starts at random. Of a text stream that shows several levels the last is
    read, which is the encoder's own output. `standardize` brings the dimensions of the image tokens to one scale.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        layers: int = 6,
        heads: int = 12,
        hidden: int | None = None,
        image_width: int = 768,
        dropout: float = 0.1,
        weights: str | None = None,
        first_layer: int = 6,
        summary: Summary = "cls",
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.standardize = Standardize(width=image_width) if standardize else nn.Identity()
        self.summary = summary
        self.checkpointing = False
        self.layers = nn.ModuleList(
            PostNormBlock(
                width=width, heads=heads, hidden=hidden or 4 * width, dropout=dropout, context_width=image_width
            )
            for _ in range(layers)
        )
        init_transformer(self, width)
        if weights is not None:
            missing = self.load_state_dict(bert_layers(read_bert(weights), first_layer, layers), strict=False)
            assert all(".cross" in key or key.startswith("standardize.") for key in missing.missing_keys)

    def prepare(self, image: Stream) -> PreparedKeysValues:
        """Project the image's keys and values once for every pass that will read them."""
        mask = None if bool(image.mask.all()) else image.mask[:, None, None]
        tokens = self.standardize(image.tokens)
        return PreparedKeysValues([_block(layer).keys_values(tokens) for layer in self.layers], mask)

    def forward(self, text: Stream, prepared: PreparedKeysValues, image_index: Tensor | None = None) -> Fused:
        """R texts (R, L, D) with the images `image_index` (R,) of `prepared`; None pairs them in order."""
        rows, tokens, context = self._enter(text, prepared, image_index)
        for i, layer in enumerate(self.layers):
            tokens = self._run(layer, tokens, rows, context.layers[i], context.mask)
        restored = Stream(rows.restore(tokens, text.mask.shape[1]), text.mask)
        read = places(text.mask, self.summary)
        return Fused(None, restored, summarized(restored.tokens[read], read))

    def decode(self, text: Stream, prepared: PreparedKeysValues, image_index: Tensor | None = None) -> Tensor:
        """(R, L, D) where no word reads a later one: what a captioning loss predicts the next word from."""
        rows, tokens, context = self._enter(text, prepared, image_index)
        reading = rows.causal()
        for i, layer in enumerate(self.layers):
            tokens = self._run(layer, tokens, reading, context.layers[i], context.mask)
        return rows.restore(tokens, text.mask.shape[1])

    def read(self, text: Stream, prepared: PreparedKeysValues, image_index: Tensor | None, positions: Tensor) -> Tensor:
        """Fused tokens at `positions` (R, L) bool only, (M, D) in row order: the last layer runs nowhere else."""
        rows, tokens, context = self._enter(text, prepared, image_index)
        for i, layer in enumerate(self.layers[:-1]):
            tokens = self._run(layer, tokens, rows, context.layers[i], context.mask)
        index = rows.pack(positions[..., None])[:, 0].nonzero().squeeze(1)
        last = _block(self.layers[-1])
        return last.read(tokens, rows, index, Packing.of(positions), context.layers[-1], context.mask)

    def summarize(self, text: Stream, prepared: PreparedKeysValues, image_index: Tensor | None = None) -> Tensor:
        """The pair's [CLS] or the mean of its words, (R, D)."""
        read = places(text.mask, self.summary)
        return summarized(self.read(text, prepared, image_index, read), read)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def _enter(
        self, text: Stream, prepared: PreparedKeysValues, image_index: Tensor | None
    ) -> tuple[Packing, Tensor, PreparedKeysValues]:
        # One image under all rows is not copied: the cross-attention reads it with one long query.
        one = len(prepared) == 1
        context = prepared if image_index is None or one else prepared.select(image_index)
        rows = Packing.of(text.mask)
        return rows, rows.pack(text.tokens[..., -self.width :]), context

    def _run(self, layer: nn.Module, tokens: Tensor, rows: Packing, context: KeysValues, mask: Tensor | None) -> Tensor:
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(layer, tokens, rows, context, mask, use_reentrant=False)
            return out
        out = layer(tokens, rows, context, mask)
        return out


def _block(layer: nn.Module) -> PostNormBlock:
    return cast(PostNormBlock, layer)
