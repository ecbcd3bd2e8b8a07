"""Captioning: each word from the picture and the words before it (CoCa, Yu 2022, equation 4; BLIP, Li 2022, LM)."""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.gather import rank_weight
from vlp.layers.packing import Packing
from vlp.layers.word_head import WordHead
from vlp.types import Loss, Stream
from vlp.view import View


def next_word_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over (M, V) rows of cross entropy to the next word, `smoothing` of it spread evenly over the vocabulary."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum") / max(len(labels), 1)


def caption_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Loss:
    """(M, V) logits of the words `labels` (M,): their loss, and the share told right, over the words of all ranks."""
    weight = rank_weight(len(labels), labels.device)  # captions of different lengths
    value = weight * next_word_loss(logits, labels, smoothing)
    right = weight * (logits.argmax(-1) == labels).float().sum() / max(len(labels), 1)
    return Loss(value, {"caption": value.detach(), "caption_accuracy": right})


class Captioning(nn.Module):
    """The model's own fusion as a decoder, or a `decoder` (`CrossFusion`) of the objective's on the word embeddings.

    The fusion can decode where no word has met a later one before: the text part is causal (`BertText(causal=True)`:
    CoCa, Miech 2021) or an embedding alone (`layers=0`: UNIMO). The words share their embeddings with the output layer.
    """

    def __init__(
        self,
        *,
        width: int,
        vocab_size: int = 30522,
        decoder: nn.Module | None = None,
        smoothing: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.told = WordHead(width=width, vocab_size=vocab_size)
        self.decoder = decoder
        self.smoothing = smoothing
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Loss over every word but the first token, and the share of words told right."""
        present = view.batch.text_mask[:, 1:]
        words = cast(Any, view.model.text).embeddings.word.weight
        logits = self.told(self.decoded(view)[:, :-1][present], words)
        return caption_loss(logits, view.batch.text_ids[:, 1:][present], self.smoothing)

    def decoded(self, view: View) -> Tensor:
        """(B, L, D) states, each of which has seen the picture and the words up to its own."""
        text: Any = view.model.text
        if self.decoder is not None:
            rows = Packing.of(view.batch.text_mask)
            embedded = rows.restore(text.embeddings(view.batch.text_ids, rows), view.batch.text_mask.shape[1])
            decoder: Any = self.decoder
            prepared = decoder.prepare(view.image)
            return cast(Tensor, decoder.decode(Stream(embedded, view.batch.text_mask), prepared, view.batch.image_row))
        return view.model.decode(view.text, view.prepared, view.batch.image_row)
