"""What stands out in the picture guides the reading of the caption (SAN, Ji 2019, section 3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class SaliencyAttention(nn.Module):
    """The scorer of SAN: the cosine of a picture, its regions weighed by their saliency, and a caption whose words are
    weighed under the guidance of the picture, of its saliency and of the caption as a whole.

    The paper's saliency detector was trained on saliency maps; here a small network on the regions learns with the
    rest, from the pairs alone. Word weights: the softmax of w (tanh(W t) * tanh(W_v v + W_s s + W_m m)), with the
    picture v, the mean s of the regions by their raw saliency, and the mean m of the words.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.detector = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1, bias=False))
        self.word = nn.Linear(width, width)
        self.picture = nn.Linear(width, width)
        self.salient = nn.Linear(width, width, bias=False)
        self.caption = nn.Linear(width, width, bias=False)
        self.weigh = nn.Linear(width, 1, bias=False)
        self.width = width

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return (words + 4) * self.width * 2

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        raw = cast(Tensor, self.detector(image.tokens))[..., 0]
        shares = F.softmax(raw.masked_fill(~image.mask, float("-inf")), dim=1)
        picture = F.normalize(torch.einsum("bn,bne->be", shares, image.tokens), dim=1)
        salient = torch.einsum("bn,bne->be", torch.sigmoid(raw) * image.mask, image.tokens)
        salient = F.normalize(salient, dim=1)
        caption = text.tokens.masked_fill(~text.mask[..., None], 0.0).sum(1) / text.mask.sum(1, keepdim=True)
        guide = torch.tanh((self.picture(picture) + self.salient(salient))[:, None] + self.caption(caption)[None])
        # w (a * g) = (w * a) g: the words times w meet the guides in one product, and no tensor of words is made.
        words = torch.tanh(self.word(text.tokens)) * self.weigh.weight[0]
        scores = torch.einsum("cle,bce->bcl", words, guide).masked_fill(~text.mask[None], float("-inf"))
        read = torch.einsum("bcl,cle->bce", F.softmax(scores, dim=2), text.tokens)
        return F.cosine_similarity(picture[:, None], read, dim=2)
