"""Own view, consensus and both together are to rank, and both sides to see the same concepts (CVSE, Wang 2020)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.gather import gather
from vlp.objectives.ranking import violations
from vlp.similarity.consensus import Consensus
from vlp.types import Loss
from vlp.view import View


def concept_divergence(image: Tensor, text: Tensor) -> Tensor:
    """(B, K) log shares of both sides -> (B,): KL(picture | caption), equation 8."""
    return (image.exp() * (image - text)).sum(1)


def named(text_ids: Tensor, concepts: Tensor) -> Tensor:
    """(B, L) token ids and (K,) concepts -> (B, K) 1 where the caption names the concept."""
    return (text_ids[:, :, None] == concepts).any(1).float()


class ConceptAgreement(nn.Module):
    """Needs a similarity `Consensus`. The weights are the published ones of the ranking by both views together, by the
    own view, by the consensus, and of the divergence. The concept graph counts the captions of the training steps.

    Deliberately different: no labels are mixed into a caption's concepts, so that training and test see one model.
    """

    def __init__(
        self,
        *,
        similarity: str = "itc",
        margin: float = 0.2,
        weights: tuple[float, float, float, float] = (3.0, 5.0, 1.0, 2.0),
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.margin = margin
        self.weights = tuple(weights)
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Weighted sum, over the pairs of all ranks."""
        match, row = cast(Consensus, view.model.similarities[self.similarity]), view.batch.image_row
        image, text = match.views("image", view.image), match.views("text", view.text)
        if row is not None:
            image = (image[0].index_select(0, row), image[1].index_select(0, row), image[2].index_select(0, row))
        ids = view.batch.image_id
        rival = ids[:, None] != gather(ids)
        together = (match.fused(*image[:2]), match.fused(*text[:2]))
        views = (together, (image[0], text[0]), (image[1], text[1]))
        terms = [self._hinges(one, two, rival) for one, two in views]
        terms.append(concept_divergence(image[2], text[2]).mean())
        value = torch.stack([w * term for w, term in zip(self.weights, terms, strict=True)]).sum()
        if self.training:
            concepts = torch.tensor(match.concepts, device=ids.device)
            match.graph.note(named(view.batch.text_ids * view.batch.text_mask, concepts))
        return Loss(value, {"concepts": value.detach(), "concept_kl": terms[3].detach()})

    def _hinges(self, image: Tensor, text: Tensor, rival: Tensor) -> Tensor:
        to_text, to_image = image @ gather(text).T, text @ gather(image).T
        own = F.cosine_similarity(image, text, dim=1)
        hinges = violations(to_text, own, rival, self.margin) + violations(to_image, own, rival, self.margin)
        return hinges.mean()
