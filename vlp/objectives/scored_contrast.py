"""InfoNCE over the pairs that any similarity scores: ITC for similarities that are no product of two vectors."""

from torch import nn

from vlp.objectives.itc import contrast_loss, contrast_targets
from vlp.objectives.scored import sides
from vlp.types import Loss
from vlp.view import View


class ScoredContrast(nn.Module):
    """Needs a similarity with `image_tokens`, `text_tokens` and `token_scores`, whose scores are logits.

    Each picture against the captions of all ranks and each caption against their pictures; every pair of one image is
    a positive. Memory and traffic: those of `scored.Sides` and of the similarity's tiles.
    """

    def __init__(self, *, similarity: str, weight: float = 1.0) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Mean of image-to-text and text-to-image contrast."""
        pairs = sides(view, self.similarity)
        to_text = contrast_loss(pairs.to_text, contrast_targets(~pairs.other_texts, None, 0.0))
        to_image = contrast_loss(pairs.to_image, contrast_targets(~pairs.other_images, None, 0.0))
        value = (to_text + to_image) / 2
        return Loss(value, {self.similarity: value.detach()})
