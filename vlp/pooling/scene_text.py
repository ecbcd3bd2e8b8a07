"""What a picture says in writing, beside what it shows (StacMR, Mafla 2021, section 4)."""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.pooling.tokens import MeanPool
from vlp.reasoning.region_graph import RegionGraph
from vlp.types import Stream


class SceneText(nn.Module):
    """Stream with `words` (`VLModel(tags="beside")`) -> (B, E): v + v * o, where `image` makes v (B, E) of the tokens.

    Each word, `width` numbers, is normalised, brought to E by a linear layer with a leaky ReLU, and to length 1; the
    words of a picture reason in a graph of their own (`RegionGraph`), and o is their mean, each of length 1 again. A
    picture without words has o = 0 exactly, so that v is left as it is: the released code runs rows of padding through
    a batch norm and the mean. Its batch norm over the slot of a word is a norm of each word by itself here: no loss may
    depend on the other rows of a batch.
    """

    def __init__(self, *, image: nn.Module, width: int, embed_dim: int, layers: int = 4) -> None:
        super().__init__()
        self.image = image
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, embed_dim)
        self.graph = RegionGraph(width=embed_dim, layers=layers)

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector. Raises ValueError for a stream without words beside it."""
        if stream.words is None:
            raise ValueError("this head reads words beside a picture: VLModel(tags='beside') gives them")
        vector = cast(Tensor, self.image(stream))
        return vector + vector * self.written(stream.words)

    def written(self, words: Stream) -> Tensor:
        """(B, T, width) -> (B, E): o, zero where a picture has no word."""
        tokens = F.normalize(F.leaky_relu(self.linear(self.norm(words.tokens))), dim=-1)
        reasoned = cast(Stream, self.graph(Stream(tokens, words.mask)))
        return cast(Tensor, MeanPool()(Stream(F.normalize(reasoned.tokens, dim=-1), words.mask)))

    def before_last(self, stream: Stream) -> Stream:
        """The reasoned tokens of the picture, of which `Retelling` tells the caption."""
        return cast(Stream, cast(Any, self.image).before_last(stream))
