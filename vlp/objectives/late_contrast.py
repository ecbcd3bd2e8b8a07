"""Contrast by late interaction, against the batches of all ranks (FILIP, Yao 2021, equation 1)."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from vlp.layers.gather import gather
from vlp.objectives.itc import contrast_loss, contrast_targets
from vlp.similarity.late import LateInteraction
from vlp.types import Loss, Stream
from vlp.view import View

Compare = Callable[[Stream, Stream], tuple[Tensor, Tensor]]  # pictures, captions -> both similarities, (B, C) each


class LateContrast(nn.Module):
    """Needs the similarity "late". Local pictures meet the captions of all ranks, and the other way round.

    Traffic per rank: the token embeddings of all ranks once forward, twice backward. Memory per rank: W B (L + N) E
    embeddings, and B x W B x N x L cosines, or with the similarity's `chunk` B x chunk x N x L. Captions are padded to
    `max_length`, which must be equal on all ranks. Every pair of one image is a positive.
    """

    def __init__(self, *, max_length: int, weight: float = 1.0) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Mean of image-to-text and text-to-image contrast."""
        late, ids = cast(LateInteraction, view.model.similarities["late"]), view.batch.image_id
        image = late.image_tokens(each_pair(view.image, view.batch.image_row))
        scale = late.scale()
        value = token_contrast(image, late.text_tokens(view.text), ids, late.compare, scale, self.max_length)
        return Loss(value, {"late": value.detach(), "logit_scale": scale.detach()})


def token_contrast(
    image: Stream, text: Stream, ids: Tensor, compare: Compare, scale: Tensor | float, max_length: int
) -> Tensor:
    """Mean of image-to-text and text-to-image contrast of B pairs' unit tokens, captions padded to `max_length`."""
    positives = ids[:, None] == gather(ids)
    targets = contrast_targets(positives, None, 0.0)
    to_text, _ = compare(image, _gathered(_padded(text, max_length)))
    _, to_image = compare(_gathered(image), text)
    return (contrast_loss(scale * to_text, targets) + contrast_loss(scale * to_image.T, targets)) / 2


def each_pair(image: Stream, row: Tensor | None) -> Stream:
    """The pictures of the B pairs, in their order, of a stream that has each once (`Batch.image_row`)."""
    return image if row is None else image.select(row)


def _padded(stream: Stream, length: int) -> Stream:
    rows, present, width = stream.tokens.shape
    tokens = stream.tokens.new_zeros(rows, length, width)
    mask = stream.mask.new_zeros(rows, length)
    kept = min(present, length)
    tokens[:, :kept], mask[:, :kept] = stream.tokens[:, :kept], stream.mask[:, :kept]
    return Stream(tokens, mask)


def _gathered(stream: Stream) -> Stream:
    return Stream(gather(stream.tokens), gather(stream.mask.to(torch.uint8)).bool())
