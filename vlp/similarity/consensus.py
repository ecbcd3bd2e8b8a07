"""Common knowledge beside what an item shows: concepts that occur together (CVSE, Wang 2020, section 3)."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.gather import gather
from vlp.similarity.vector import one_token
from vlp.types import Stream


class ConceptGraph(nn.Module):
    """Embeddings of K concepts after two graph convolutions over how often they occur together, (K, E).

    `counts` (K, K) of the captions seen so far: the diagonal how many name a concept, beside it how many name both.
    Edges are the squares of the confidences P(j | i) above `floor`, with self-loops, rows of sum 1: strong company
    counts more, as the paper's own scaling has it. `note` takes captions in, `after_step` counts them.
    """

    counts: Tensor

    def __init__(self, *, concepts: int, width: int, floor: float = 0.01) -> None:
        super().__init__()
        self.floor = floor
        self.embeddings = nn.Parameter(torch.randn(concepts, width) * width**-0.5)
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.register_buffer("counts", torch.zeros(concepts, concepts))
        self._noted: list[Tensor] = []

    def edges(self) -> Tensor:
        """(K, K), rows of sum 1."""
        given = self.counts / self.counts.diagonal().clamp(min=1)[:, None]
        kept = given.square().masked_fill(given < self.floor, 0.0).fill_diagonal_(1.0)
        return kept / kept.sum(1, keepdim=True)

    def forward(self) -> Tensor:
        """The concepts."""
        edges = self.edges()
        hidden = F.leaky_relu(edges @ self.first(self.embeddings), 0.2)
        return cast(Tensor, edges @ self.second(hidden))

    def note(self, named: Tensor) -> None:
        """(B, K), 1 where a caption names a concept."""
        self._noted.append(named)

    @torch.no_grad()
    def after_step(self) -> None:
        """Count the captions noted in the step, on all ranks alike."""
        for named in self._noted:
            every = gather(named)
            self.counts.add_(every.T @ every)
        self._noted = []

    def discard_step(self) -> None:
        """Forget the captions of a step that is not taken."""
        self._noted = []


class Consensus(nn.Module):
    """The similarity of CVSE: each side a vector `share` of its own and 1 - `share` of concepts.

    `image` and `text` are heads Stream -> (B, E). How much a concept has to do with an item is the softmax of
    `sharpness` w (tanh(W c) * tanh(W' x)) over the concepts; the concepts' weighted sum is the consensus. `concepts`
    are the token ids that count as concepts, which `ConceptAgreement` finds in captions. Scores are inner products of
    the fused vectors, so they can be indexed; the published test also adds 0.05 of the consensus' own.
    """

    def __init__(
        self,
        *,
        image: nn.Module,
        text: nn.Module,
        width: int,
        concepts: Sequence[int],
        share: float = 0.9,
        sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.concepts = list(concepts)
        self.share = share
        self.sharpness = sharpness
        self.graph = ConceptGraph(concepts=len(self.concepts), width=width)
        self.concept = nn.Linear(width, width)
        self.image_side = nn.Linear(width, width)
        self.text_side = nn.Linear(width, width)
        self.weigh = nn.Linear(width, 1, bias=False)

    def views(self, side: str, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """An item's own vector (B, E) and its consensus (B, E), of length 1, and log shares of the concepts (B, K)."""
        own = F.normalize((self.image if side == "image" else self.text)(stream), dim=1)
        asked = torch.tanh((self.image_side if side == "image" else self.text_side)(own))
        graph = self.graph()
        scores = (torch.tanh(self.concept(graph)) * self.weigh.weight) @ asked.T  # (K, B)
        log_shares = F.log_softmax(self.sharpness * scores.T, dim=1)
        return own, F.normalize(log_shares.exp() @ graph, dim=1), log_shares

    def fused(self, own: Tensor, consensus: Tensor) -> Tensor:
        """(B, E), of length 1."""
        return F.normalize(self.share * own + (1 - self.share) * consensus, dim=1)

    def embed_image(self, image: Stream) -> Tensor:
        """(B, N, D) -> (B, E), unit rows."""
        return self.fused(*self.views("image", image)[:2])

    def embed_text(self, text: Stream) -> Tensor:
        """(C, L, D) -> (C, E), unit rows."""
        return self.fused(*self.views("text", text)[:2])

    def image_tokens(self, image: Stream) -> Stream:
        """The embedding as one token, (B, 1, E)."""
        return one_token(self.embed_image(image))

    def text_tokens(self, text: Stream) -> Stream:
        """The embedding as one token, (C, 1, E)."""
        return one_token(self.embed_text(text))

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, 1, E), (C, 1, E) -> (B, C)."""
        return image.tokens[:, 0] @ text.tokens[:, 0].T

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) cosines of every pair."""
        return self.embed_image(image) @ self.embed_text(text).T

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) cosines of aligned pairs."""
        return (self.embed_image(image) * self.embed_text(text)).sum(1)

    def scale(self) -> Tensor:
        """1: scores are cosines."""
        return torch.ones((), device=self.weigh.weight.device)
