"""Cross-modal projection matching (CMPM, Zhang 2018, equations 1-4; TIMAM, Sarafianos 2019, section 3.3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.objectives.scored import sides
from vlp.types import Loss, Stream
from vlp.view import View


def projection_loss(projections: Tensor, positive: Tensor, eps: float = 1e-8) -> Tensor:
    """(B, K) lengths of projections -> KL(p | q) with p their softmax and q the positives' even shares; the mean."""
    log_p = F.log_softmax(projections, dim=1)
    shares = positive.to(projections.dtype)
    log_q = (shares / shares.sum(1, keepdim=True) + eps).log()
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


class ProjectionMatching(nn.Module):
    """Needs a vector similarity with `unit=False`: each vector is projected on the direction of the other side's.

    The projection's length grows with the vector's, which is how the softmax finds its temperature.
    """

    def __init__(self, *, similarity: str = "itc", weight: float = 1.0) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Sum of both directions, as published."""
        found = sides(view, self.similarity)
        image, text = found.image.tokens[:, 0].index_select(0, found.row), found.text.tokens[:, 0]
        to_text = image @ _directions(found.texts).T
        to_image = text @ _directions(found.images).T
        value = projection_loss(to_text, ~found.other_texts) + projection_loss(to_image, ~found.other_images)
        return Loss(value, {"cmpm": value.detach()})


def _directions(stream: Stream) -> Tensor:
    return F.normalize(stream.tokens[:, 0], dim=1)
