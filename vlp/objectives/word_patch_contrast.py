"""Word-patch alignment by late interaction of a one-stream model's own tokens, each side read without the other."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from vlp.objectives.late_contrast import each_pair, token_contrast
from vlp.similarity.late import chunked_scores
from vlp.types import Loss, Stream
from vlp.view import View


class WordPatchContrast(nn.Module):
    """Each word finds its patch and each patch its word, better in its own pair than in all others of the step.

    The fusion's layers read captions without pictures and image tokens one by one (`OneStream.apart`), so that a patch
    says what it shows and no other patch can say it for it. Those tokens are contrasted as FILIP's (Yao 2021, equations
    1 and 3-5), without a projection and at a fixed `temperature`. [CLS], [SEP] and the first `skip` image tokens (1: a
    class token; 0: regions) take no part.

    In place of the largest cosine stands the mean weighed by softmax(cosine / `spread`): a word that begins with an
    empty patch can else stay there, for its largest cosine sends the others no gradient (docs/decisions.md,
    2026-11-29). 0 takes the largest, and 1 - that similarity is the relaxed word mover's distance (Kusner 2015):
    transport (`WordPatchAlignment`) without the equal shares, by which a patch holds only so many words, and all others
    must go to the background.

    Compute: one pass over captions and one over single tokens beside those of other objectives. Traffic and memory per
    rank: those of `LateContrast`, with E = D, and with a `spread` weights as many as cosines, each way; captions are
    padded to `max_length`, which must be equal on all ranks.
    """

    def __init__(
        self,
        *,
        max_length: int,
        weight: float = 1.0,
        temperature: float = 0.02,
        spread: float = 0.05,
        skip: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = weight
        self.temperature = temperature
        self.spread = spread
        self.skip = skip
        self.chunk = chunk

    def forward(self, view: View) -> Loss:
        """Mean of image-to-text and text-to-image contrast."""
        image, text = self.tokens(view)
        compare = partial(chunked_scores, chunk=self.chunk, spread=self.spread)
        value = token_contrast(image, text, view.batch.image_id, compare, 1 / self.temperature, self.max_length)
        return Loss(value, {"wpc": value.detach()})

    def tokens(self, view: View) -> tuple[Stream, Stream]:
        """Unit image tokens (B, N - skip, D) and words (B, L, D) of the pairs."""
        image, text = each_pair(view.image_apart, view.batch.image_row), view.text_apart
        words = view.batch.word_ids >= 0
        words = torch.where(words.any(1, keepdim=True), words, view.batch.text_mask)  # a caption without a word
        unit = partial(F.normalize, dim=-1)
        return Stream(unit(image.tokens[:, self.skip :]), image.mask[:, self.skip :]), Stream(unit(text.tokens), words)
