"""The regions after reasoning are to tell the caption (VSRN, Li 2019, section 3.3, equation 8)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.chain import Chain
from vlp.types import Loss, Stream
from vlp.view import View


class Retelling(nn.Module):
    """Needs a similarity whose picture head is a chain that ends in a pooling. A GRU, begun with the mean of the
    reasoned regions, reads the caption's words and tells each next one, attending to the regions at every word.

    `width` of the regions, `word_width` of its own word embeddings.
    """

    def __init__(
        self, *, width: int, vocab_size: int, word_width: int = 300, similarity: str = "itc", weight: float = 1.0
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = weight
        self.words = nn.Embedding(vocab_size, word_width)
        self.start = nn.Linear(width, width)
        self.gru = nn.GRU(word_width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.tell = nn.Linear(2 * width, vocab_size)

    def forward(self, view: View) -> Loss:
        """Mean cross entropy over the words present behind the first."""
        match: Any = view.model.similarities[self.similarity]
        regions = cast(Stream, cast(Chain, match.image).before_last(view.image))
        row, ids, mask = view.batch.image_row, view.batch.text_ids, view.batch.text_mask
        if row is not None:
            regions = regions.select(row)
        told = mask[:, 1:]
        logits = self.logits(regions, ids[:, :-1])[told]
        losses = F.cross_entropy(logits.float(), ids[:, 1:][told], reduction="none")
        # By caption, so that ranks whose captions differ in length agree with one rank on the mean.
        caption = told.nonzero()[:, 0]
        total = losses.new_zeros(len(ids)).index_add(0, caption, losses)
        value = (total / told.sum(1).clamp(min=1)).mean()
        return Loss(value, {"retell": value.detach()})

    def logits(self, regions: Stream, ids: Tensor) -> Tensor:
        """(B, N, D) regions and (B, L) words -> (B, L, V): what comes next, after each word."""
        present = regions.tokens.masked_fill(~regions.mask[..., None], 0.0)
        mean = present.sum(1) / regions.mask.sum(1, keepdim=True)
        states, _ = self.gru(self.words(ids), torch.tanh(self.start(mean))[None])
        scores = self.query(states) @ present.transpose(1, 2) * present.shape[2] ** -0.5
        shares = F.softmax(scores.masked_fill(~regions.mask[:, None], float("-inf")), dim=2)
        return cast(Tensor, self.tell(torch.cat([states, shares @ present], 2)))
