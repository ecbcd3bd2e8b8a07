"""Contrast within a modality, and between the whole and its parts (TCL, Yang 2022, sections 3.2 and 3.3)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.chunks import sum_over_rows
from vlp.layers.gather import gather, rank_weight
from vlp.objectives.itc import contrast_loss, contrast_targets
from vlp.types import Loss
from vlp.view import Contrast, View


class IntraModalContrast(nn.Module):
    """Each embedding is to find the teacher's embedding of the same picture among pictures, and of the caption among
    captions (equations 4-6). Needs the similarity "itc" and a teacher; its queue gives further candidates. With `chunk`
    so many rows are compared at a time, and again in the backward pass."""

    embeddings_alone = True

    def __init__(self, *, weight: float = 1.0, chunk: int | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.chunk = chunk

    def forward(self, view: View) -> Loss:
        """Mean of both sides. Raises ValueError without a teacher: an embedding would be told from others by itself."""
        if view.momentum is None:
            raise ValueError("contrast within a modality needs a teacher's view of the batch")
        c = view.contrast
        sides = [
            sum_over_rows(partial(_within, c, others), (own, view.batch.image_id), self.chunk) / len(own)
            for own, others in ((c.image, c.image_candidates), (c.text, c.text_candidates))
        ]
        value = (sides[0] + sides[1]) / 2
        return Loss(value, {"imc": value.detach()})


def _within(c: Contrast, others: Tensor, own: Tensor, ids: Tensor) -> Tensor:
    """Cross entropies of some rows against the candidates of their own modality, summed."""
    scores = (c.scale * own @ others.T).masked_fill((c.candidate_ids == -1)[None], float("-inf"))
    return contrast_loss(scores, contrast_targets(ids[:, None] == c.candidate_ids, None, 0.0)) * len(own)


def part_loss(parts: Tensor, mask: Tensor, wholes: Tensor, own: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """(B, N, E) unit parts that are to find their whole `own` (B,) among (K, E) unit wholes; others of one picture
    (`positive` (B, K)) leave. The mean over the parts present."""
    scores = torch.einsum("bne,ke->bnk", parts, wholes) / temperature
    rivals = positive & (torch.arange(len(wholes), device=own.device)[None] != own[:, None])
    log_shares = F.log_softmax(scores.masked_fill(rivals[:, None], float("-inf")), dim=2)
    found = log_shares.gather(2, own[:, None, None].expand(-1, parts.shape[1], 1))[..., 0]
    return -(found * mask).sum() / mask.sum().clamp(min=1)


class LocalGlobalContrast(nn.Module):
    """Every patch is to find its picture's embedding, every word its caption's, among those of all ranks (equation 7).

    The paper's negatives are parts of other pictures of the local batch; here they are wholes, of which a rank gathers
    W B vectors instead of W B N. Parts go through the projection of the similarity "itc". Memory per rank: B x N x W B
    scores; with `chunk`, those of so many pictures at a time, and again in the backward pass.
    """

    def __init__(self, *, temperature: float = 0.07, weight: float = 1.0, chunk: int | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight
        self.chunk = chunk

    def forward(self, view: View) -> Loss:
        """Mean of both sides."""
        similarity, ids, row = view.model.contrast, view.batch.image_id, view.batch.image_row
        image = view.image if row is None else view.image.select(row)
        positive = ids[:, None] == gather(ids)
        start = torch.distributed.get_rank() * len(ids) if torch.distributed.is_initialized() else 0
        own = start + torch.arange(len(ids), device=ids.device)
        sides = []
        for stream, project, whole in (
            (image, similarity.image_projection, view.image_embedding),
            (view.text, similarity.text_projection, view.text_embedding),
        ):
            parts, mask = F.normalize(project(stream.tokens[:, 1:]).float(), dim=-1).to(whole.dtype), stream.mask[:, 1:]
            total = sum_over_rows(partial(self._sum, gather(whole)), (parts, mask, own, positive), self.chunk)
            weight = rank_weight(mask.sum(), whole.device)  # captions of different lengths
            sides.append(weight * total / mask.sum().clamp(min=1))
        value = (sides[0] + sides[1]) / 2
        return Loss(value, {"lmi": value.detach()})

    def _sum(self, wholes: Tensor, parts: Tensor, mask: Tensor, own: Tensor, positive: Tensor) -> Tensor:
        return part_loss(parts, mask, wholes, own, positive, self.temperature) * mask.sum().clamp(min=1)
