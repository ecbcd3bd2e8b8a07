"""Which pairs a matching objective sees. Frozen dataclasses: equal policies share one fused pass."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlp.layers import draws
from vlp.view import Rows, View


def sample_negatives(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """One column for each row of (B, B) scores, drawn from softmax(scores) and never of the row's own image id.

    Returns (B,) columns and (B,) bool, False where every column has the row's id or the score -inf. Those columns leave
    before the softmax, in fp32, so no row of weights underflows to zero; the cumulated weights of a row are then cut
    at one uniform number, in float64, where no rounding reaches a column of weight 0.
    """
    scores = scores.float().masked_fill(ids[:, None] == ids[None], float("-inf"))
    allowed = (scores > float("-inf")).any(1)
    # float32 softmax can still underflow on all but the hardest column; that one keeps weight 1.
    weights = torch.where(allowed[:, None], F.softmax(scores, dim=1), torch.ones_like(scores))
    bounds = weights.double().cumsum(1)
    cut = draws.uniform(len(scores), 1, device=scores.device) * bounds[:, -1:]
    return torch.searchsorted(bounds, cut, right=True).squeeze(1), allowed


def grouped(scores: Tensor, within: int) -> Tensor:
    """(B, B) scores, -inf outside the blocks of `within` neighbours; as they are at 0."""
    if not within:
        return scores
    if len(scores) % within:
        raise ValueError(f"negatives within {within} pairs need a multiple of that on each rank, not {len(scores)}")
    group = torch.arange(len(scores), device=scores.device) // within
    return scores.masked_fill(group[:, None] != group[None], float("-inf"))


def _rows(text: Tensor, image: Tensor, negatives: list[tuple[Tensor, Tensor, Tensor]]) -> Rows:
    texts = torch.cat([text] + [n[0] for n in negatives])
    images = torch.cat([image] + [n[1] for n in negatives])
    label = torch.zeros_like(texts)
    label[: len(text)] = 1
    weight = torch.cat([torch.ones(len(text), device=text.device)] + [n[2].float() for n in negatives])
    return Rows(texts, images, label, weight)


@dataclass(frozen=True, kw_only=True)
class HardNegatives:
    """B positives, B hard texts for the images, B hard images for the texts, drawn from ITC scores (ALBEF, 3.2).

    `within`: among the pairs of each so many neighbours of the batch, so that a step's negatives are the same for every
    number of ranks whose share is a multiple of it; 0 = among all pairs of a rank.
    """

    within: int = 0

    def rows(self, view: View) -> Rows:
        """3 B rows."""
        with torch.no_grad():
            c, batch = view.contrast, len(view.batch)
            start = _local_start(view)
            local = slice(start, start + batch)
            ids = view.batch.image_id
            text, has_text = sample_negatives(grouped(c.scale * c.image @ c.text_candidates[local].T, self.within), ids)
            image, has_image = sample_negatives(
                grouped(c.scale * c.text @ c.image_candidates[local].T, self.within), ids
            )
        own = torch.arange(batch, device=text.device)
        return _rows(own, own, [(text, own, has_text), (own, image, has_image)])


@dataclass(frozen=True, kw_only=True)
class RandomNegatives:
    """Each text with its own image, then `each` other images of the batch, drawn uniformly (ViLT, 4.1, at each=1).
    `within` as in `HardNegatives`."""

    each: int = 1
    within: int = 0

    def rows(self, view: View) -> Rows:
        """(1 + each) B rows."""
        ids = view.batch.image_id
        own = torch.arange(len(ids), device=ids.device)
        even = grouped(torch.zeros(len(ids), len(ids), device=ids.device), self.within)
        drawn = [sample_negatives(even, ids) for _ in range(self.each)]
        return _rows(own, own, [(own, image, allowed) for image, allowed in drawn])


@dataclass(frozen=True, kw_only=True)
class SimilarTextNegatives:
    """B positives, B hard texts for the images, B hard images for the texts, for models without embeddings.

    Both are drawn from softmax(sharpness * similarity of the captions), so that a pair cannot be told wrong by its
    subject alone. `sharpness` 0 draws uniformly.
    """

    sharpness: float = 15.0

    def rows(self, view: View) -> Rows:
        """3 B rows."""
        ids, batch = view.batch.image_id, view.batch
        scores = self.sharpness * text_similarity(batch.text_ids, batch.word_ids >= 0)
        text, has_text = sample_negatives(scores, ids)
        image, has_image = sample_negatives(scores, ids)
        own = torch.arange(len(ids), device=ids.device)
        return _rows(own, own, [(text, own, has_text), (own, image, has_image)])


def text_similarity(text_ids: Tensor, words: Tensor) -> Tensor:
    """(B, B) cosines between captions (B, L) as sets of word pieces, each weighing log(B / captions that have it).

    `words` (B, L) bool marks what counts as a word. Memory: B * (distinct words of the batch) floats.
    """
    distinct, place = torch.unique(text_ids, return_inverse=True)
    found = torch.zeros(len(text_ids), len(distinct), device=text_ids.device)
    found.scatter_add_(1, place, words.float())
    found = found.clamp(max=1)
    weights = torch.log(len(found) / found.sum(0).clamp(min=1))
    vectors = F.normalize(found * weights, dim=1)
    return vectors @ vectors.T


def _local_start(view: View) -> int:
    """Where this rank's rows begin among the gathered candidates."""
    import torch.distributed as dist

    return dist.get_rank() * len(view.batch) if dist.is_available() and dist.is_initialized() else 0
