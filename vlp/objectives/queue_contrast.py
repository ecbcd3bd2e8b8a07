"""Contrast with a queue of negatives alone (MoCo, He 2020, equation 1; BriVL, Huo 2021, equations 1-3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Loss
from vlp.view import View


def queue_loss(queries: Tensor, keys: Tensor, queue: Tensor, same: Tensor, scale: Tensor | float) -> Tensor:
    """Mean over B of -log(exp(s q k) / (exp(s q k) + sum over the queue of exp(s q n))).

    (B, E) queries with their keys, (Q, E) queue; entries of the query's own picture, `same` (B, Q), leave.
    """
    own = (queries * keys).sum(1, keepdim=True)
    others = (queries @ queue.T).masked_fill(same, float("-inf"))
    return -F.log_softmax(scale * torch.cat([own, others], 1), dim=1)[:, 0].mean()


class QueueContrast(nn.Module):
    """Each picture is to find the teacher's embedding of its caption among the captions in the queue, and each caption
    that of its picture. The other pairs of the step are no negatives, so a loss hangs on its own pair alone, and
    nothing is gathered for it.

    Needs the similarity "itc" and a teacher with a queue; with `Teacher(random_queue=True)` the queue starts full, as
    MoCo's does.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Sum of both directions. Raises ValueError without a teacher that has a queue."""
        teacher: Any = view.momentum
        if teacher is None or view.teacher is None or not teacher.has_queue:
            raise ValueError("contrast with a queue needs a teacher; set teacher.queue_size above 0")
        with torch.no_grad():
            image, text = view.teacher.image_embedding, view.teacher.text_embedding
        ids = teacher.queue_ids
        same = (view.batch.image_id[:, None] == ids) | (ids == -1)
        scale = view.model.contrast.scale()
        to_text = queue_loss(view.image_embedding, text, teacher.queue_text, same, scale)
        to_image = queue_loss(view.text_embedding, image, teacher.queue_image, same, scale)
        return Loss(to_text + to_image, {"moco": (to_text + to_image).detach()})
