"""The pairs of a batch scored by any similarity of the model, among the candidates of all ranks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.layers.gather import gather, world_size
from vlp.similarity.token_pairs import aligned
from vlp.types import Stream
from vlp.view import View


@dataclass
class Sides:
    """What a similarity reads of both sides: of the local pairs, and of the candidates of all ranks.

    A picture that several local pairs share is read and scored once on a single rank; among several ranks, whose
    batches must be of one shape, it stands once for each pair.
    """

    similarity: Any
    image: Stream  # of the P local pictures
    text: Stream  # of the B local captions
    images: Stream  # of all pictures
    texts: Stream  # of all captions
    row: Tensor  # (B,) the local picture of each pair
    own_image: Tensor  # (B,) the picture of each pair among all
    own_text: Tensor  # (B,) the caption of each pair among all
    ids: Tensor  # (B,) image ids of the pairs
    image_ids: Tensor  # (all pictures,)
    text_ids: Tensor  # (all captions,)

    @cached_property
    def to_text(self) -> Tensor:
        """(B, all captions): each pair's picture with every caption."""
        return self._every.index_select(0, self.row)

    @cached_property
    def to_image(self) -> Tensor:
        """(B, all pictures): each pair's caption with every picture."""
        alone = world_size() == 1
        return self._every.T if alone else self.similarity.token_scores(self.images, self.text).T

    @cached_property
    def _every(self) -> Tensor:
        return torch.as_tensor(self.similarity.token_scores(self.image, self.texts))

    @property
    def own(self) -> Tensor:
        """(B,) scores of the pairs themselves."""
        return self.to_text.gather(1, self.own_text[:, None])[:, 0]

    @property
    def other_texts(self) -> Tensor:
        """(B, all captions) bool: captions of another picture."""
        return self.ids[:, None] != self.text_ids

    @property
    def other_images(self) -> Tensor:
        """(B, all pictures) bool: another picture."""
        return self.ids[:, None] != self.image_ids


def sides(view: View, which: Any) -> Sides:
    """The sides of a similarity of the model, by its name or itself."""
    similarity: Any = view.model.similarities[which] if isinstance(which, str) else which
    image, text = similarity.image_tokens(view.image), similarity.text_tokens(view.text)
    ids, count = view.batch.image_id, len(view.batch)
    row = view.batch.image_row
    row = torch.arange(count, device=ids.device) if row is None else row
    if world_size() == 1:
        image_ids = ids.new_empty(len(image.mask)).index_copy(0, row, ids)
        own = torch.arange(count, device=ids.device)
        return Sides(similarity, image, text, image, text, row, row, own, ids, image_ids, ids)
    image, local = image.select(row), torch.arange(count, device=ids.device)
    own, everyone = torch.distributed.get_rank() * count + local, gather(ids)
    images, texts = _gathered(image), _gathered(text)
    return Sides(similarity, image, text, images, texts, local, own, own, ids, everyone, everyone)


def two_passes(pairs: Sides) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Scores with gradient of the pairs, (B,), and of each one's hardest rivals with whether there is one.

    All pairs are scored without gradient, and then those again that a loss of the hardest hangs on: the rival caption
    of each picture, the rival picture of each caption.
    """
    with torch.no_grad():
        low = float("-inf")
        text = pairs.to_text.masked_fill(~pairs.other_texts, low).argmax(1)
        image = pairs.to_image.masked_fill(~pairs.other_images, low).argmax(1)
    own_image, own_text, similarity = pairs.image.select(pairs.row), pairs.text, pairs.similarity
    own = aligned(similarity, own_image, own_text)
    with_text = aligned(similarity, own_image, pairs.texts.select(text))
    with_image = aligned(similarity, pairs.images.select(image), own_text)
    return own, [
        (with_text, pairs.other_texts.any(1).to(own.dtype)),
        (with_image, pairs.other_images.any(1).to(own.dtype)),
    ]


def _gathered(stream: Stream) -> Stream:
    """The streams of all ranks, padded to the longest of them."""
    length = torch.tensor(stream.mask.shape[1], device=stream.mask.device)
    torch.distributed.all_reduce(length, torch.distributed.ReduceOp.MAX)
    missing = int(length) - stream.mask.shape[1]
    tokens, mask = F.pad(stream.tokens, (0, 0, 0, missing)), F.pad(stream.mask, (0, missing))
    return Stream(gather(tokens), gather(mask.to(torch.uint8)).bool())
