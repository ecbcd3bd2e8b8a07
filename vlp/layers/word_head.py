"""BERT's word-prediction head: which word of the vocabulary stands, or comes next, at a token (Devlin 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.blocks import init_transformer


class WordHead(nn.Module):
    """Dense, GELU, norm, the word embeddings as output layer, a bias. (M, D) -> (M, V)."""

    def __init__(self, *, width: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        init_transformer(self, width)

    def forward(self, tokens: Tensor, words: Tensor) -> Tensor:
        """`words`: (V, D) word embeddings, shared with the text encoder."""
        return F.linear(self.norm(F.gelu(self.dense(tokens))), words, self.bias)
