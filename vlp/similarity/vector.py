"""Each side one vector, made by itself, so that a gallery is embedded once and can be indexed (the VSE family)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class VectorSimilarity(nn.Module):
    """A head for each side, Stream -> (B, E); scores are inner products, of unit vectors cosines.

    `unit` gives the embeddings length 1. `temperature` divides the scores, as a learned number; None: `scale` is 1.
    """

    def __init__(
        self, *, image: nn.Module, text: nn.Module, unit: bool = True, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.unit = unit
        if temperature is not None:
            self.logit_scale = nn.Parameter(torch.tensor(1 / temperature).log())

    def embed_image(self, image: Stream) -> Tensor:
        """(B, N, D) -> (B, E), fp32 or better."""
        return self._finished(self.image(image))

    def embed_text(self, text: Stream) -> Tensor:
        """(C, L, D) -> (C, E), fp32 or better."""
        return self._finished(self.text(text))

    def _finished(self, vectors: Tensor) -> Tensor:
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        return F.normalize(vectors, dim=-1) if self.unit else vectors

    def image_tokens(self, image: Stream) -> Stream:
        """The embedding as a stream of one token, (B, 1, E): the face of every similarity."""
        return one_token(self.embed_image(image))

    def text_tokens(self, text: Stream) -> Stream:
        """The embedding as a stream of one token, (C, 1, E)."""
        return one_token(self.embed_text(text))

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, 1, E), (C, 1, E) -> (B, C)."""
        return self.scale() * image.tokens[:, 0] @ text.tokens[:, 0].T

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) scores of every pair."""
        return self.scale() * self.embed_image(image) @ self.embed_text(text).T

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) scores of aligned pairs."""
        return self.scale() * (self.embed_image(image) * self.embed_text(text)).sum(-1)

    def scale(self) -> Tensor:
        """1 / temperature."""
        return self.logit_scale.exp() if hasattr(self, "logit_scale") else torch.ones(())


def one_token(vectors: Tensor) -> Stream:
    """(B, E) -> Stream (B, 1, E)."""
    return Stream(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device))
