"""How likely a caption is for a picture, word after word: a captioner that re-ranks (Miech 2021, section 3.2)."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.word_head import WordHead
from vlp.types import Stream

WORDS = 1024  # whose V logits are in memory at once where pairs are ranked


def log_likelihood(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """(M, V) logits of the words `labels` (R, L) that are `present` (R, L), in row order -> (R,) log p(caption |
    picture)."""
    return _sum_of_rows(_each_word(logits, labels[present]), present)


class CaptionLikelihood(nn.Module):
    """log p(caption | picture), the sum over the words behind the first: "fused", on a fusion that decodes.

    The sum, with which the paper orders pictures for a caption, prefers short captions for a picture. The mean `per`
    word orders pictures for a caption as the sum does, and captions for a picture whatever their length.
    """

    def __init__(self, *, width: int, vocab_size: int = 30522, per: Literal["caption", "word"] = "caption") -> None:
        super().__init__()
        self.per = per
        self.told = WordHead(width=width, vocab_size=vocab_size)

    def forward(self, states: Tensor, mask: Tensor, words: Tensor) -> Tensor:
        """(R, L, D) states of `VLModel.decode`, the captions' (R, L) mask and the (V, D) word embeddings -> (M, V)
        logits of every word present behind the first, in row order."""
        return cast(Tensor, self.told(states[:, :-1][mask[:, 1:]], words))

    def log_likelihood(self, states: Tensor, text: Stream, words: Tensor) -> Tensor:
        """(R, L, D) states of the captions `text`, and (V, D) word embeddings -> (R,), fp32 under autocast too: pairs
        that differ by less than bf16 tells apart would be ordered at random.

        Raises ValueError where the stream does not say which words its tokens are.
        """
        if text.ids is None:
            raise ValueError("a likelihood needs the words of the captions; give streams of VLModel.encode_text")
        present = text.mask[:, 1:]
        labels = text.ids[:, 1:][present].split(WORDS)
        tokens = states[:, :-1][present].to(self.told.bias.dtype).split(WORDS)
        with torch.autocast(states.device.type, enabled=False):
            each = [_each_word(self.told(t, words), label) for t, label in zip(tokens, labels, strict=True)]
        total = _sum_of_rows(torch.cat(each), present)
        return total if self.per == "caption" else total / present.sum(1).clamp(min=1)


def _each_word(logits: Tensor, labels: Tensor) -> Tensor:
    """(M, V), (M,) -> (M,) log-probabilities in fp32, or in fp64 where the logits are."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(exact, labels, reduction="none")


def _sum_of_rows(each: Tensor, present: Tensor) -> Tensor:
    """(M,) numbers at the places `present` (R, L), in row order -> (R,) sums."""
    return each.new_zeros(present.shape).masked_scatter(present, each).sum(1)
