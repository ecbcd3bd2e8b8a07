"""Every picture a class of its own (Dual-path's instance loss, Zheng 2020; TIMAM's identities; MRL, Hu 2021)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Loss
from vlp.view import View

Kind = Literal["cross_entropy", "robust"]
Unit = Literal["neither", "classes", "both"]


def identity_loss(logits: Tensor, target: Tensor, kind: Kind) -> Tensor:
    """Mean over the rows of -log p_y, or robust clustering's log(1 - p_y), whose gradient is bounded for rows whose
    label is wrong (MRL, equation 4)."""
    if kind == "cross_entropy":
        return F.cross_entropy(logits, target)
    # log(1 - p_y) = log sum exp of the others - log sum exp of all; the largest share of one class is 1.
    others = logits.scatter(1, target[:, None], float("-inf"))
    return (torch.logsumexp(others, 1) - torch.logsumexp(logits, 1)).mean()


class Identity(nn.Module):
    """Needs a vector similarity. One classifier for both sides over `classes` image ids, 0 .. classes - 1.

    `unit` gives length 1 to the class vectors (TIMAM's norm-softmax, equation 2) or to both sides (MRL's clusters);
    logits are divided by `temperature`.
    """

    def __init__(
        self,
        *,
        width: int,
        classes: int,
        similarity: str = "itc",
        kind: Kind = "cross_entropy",
        unit: Unit = "neither",
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.kind: Kind = kind
        self.unit: Unit = unit
        self.temperature = temperature
        self.weight = weight
        self.centres = nn.Parameter(torch.randn(classes, width) * width**-0.5)

    def forward(self, view: View) -> Loss:
        """Mean of both sides. Raises ValueError for an image id that has no class."""
        similarity, ids = view.model.similarities[self.similarity], view.batch.image_id
        if int(ids.max()) >= len(self.centres):
            raise ValueError(f"image id {int(ids.max())} has no class: set `classes` above the data's largest image id")
        image = similarity.embed_image(view.image)  # type: ignore[operator]
        row = view.batch.image_row
        image = image if row is None else image.index_select(0, row)
        sides = (image, similarity.embed_text(view.text))  # type: ignore[operator]
        value = torch.stack([identity_loss(self.logits(side), ids, self.kind) for side in sides]).mean()
        return Loss(value, {"identity": value.detach()})

    def logits(self, vectors: Tensor) -> Tensor:
        """(B, E) -> (B, classes)."""
        centres = self.centres if self.unit == "neither" else F.normalize(self.centres, dim=1)
        vectors = F.normalize(vectors, dim=1) if self.unit == "both" else vectors
        return vectors @ centres.T / self.temperature
