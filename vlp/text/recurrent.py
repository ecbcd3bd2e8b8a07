"""Word embeddings read by a GRU, forwards or both ways (VSE++, Faghri 2018; SCAN, Lee 2018, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vlp.types import Stream, Tags


class RecurrentText(nn.Module):
    """(B, L) ids -> Stream (B, L, D): the state at each word, of both directions averaged where it reads both ways.

    A caption is read from its first token to its last one present: `LastPool` over a one-way GRU is the last state.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        word_width: int = 300,
        width: int = 1024,
        both_ways: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.width = width
        self.both_ways = both_ways
        self.words = nn.Embedding(vocab_size, word_width)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(word_width, width, batch_first=True, bidirectional=both_ways)

    def forward(self, ids: Tensor, mask: Tensor) -> Stream:
        """(B, L) ids and mask, present tokens first, to a stream."""
        lengths = mask.sum(1)
        packed = pack_padded_sequence(
            self.dropout(self.words(ids)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        states = F.pad(states, (0, 0, 0, ids.shape[1] - states.shape[1]))
        if self.both_ways:
            states = torch.stack(states.chunk(2, dim=-1)).mean(0)
        return Stream(states, mask)

    def embed_tags(self, tags: Tags) -> Stream:
        """(P, T) tags to a stream (P, T, word_width): the captions' embeddings of the words, which have no order."""
        return Stream(self.dropout(self.words(tags.ids)), tags.mask)
