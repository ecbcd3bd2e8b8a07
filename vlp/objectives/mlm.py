"""Masked language modelling with the image in sight (BERT's 15 % / 80-10-10; ALBEF equations 3 and 7)."""

from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.gather import rank_weight
from vlp.layers.word_head import WordHead
from vlp.types import Batch, Loss, Stream
from vlp.view import View


@dataclass
class Masked:
    """Masked ids and the places (B, L) bool whose original word is to be told."""

    ids: Tensor
    positions: Tensor


class WordMasking(Protocol):
    """What an MLM objective may choose further words with (`GraphMasking`, `KnowledgeMasking`, `AlignmentMasking`)."""

    def words(self, batch: Batch) -> Tensor:
        """(B, L) bool: pieces to mask."""


def mask_words(
    ids: Tensor,
    word_ids: Tensor,
    *,
    also: Tensor | None = None,
    probability: float,
    whole_words: bool,
    mask_id: int,
    first_word_id: int,
    vocab_size: int,
) -> Masked:
    """Choose pieces (or whole words) with `probability`, and those of `also` (B, L) bool; 80 % become [MASK], 10 % a
    random word, 10 % stay.

    Special tokens and padding (`word_ids` -1) are never chosen. Random words come from [first_word_id, vocab_size).
    """
    draw = draws.uniform(*ids.shape, device=ids.device)
    if whole_words:
        draw = draw.gather(1, word_ids.clamp(min=0))  # pieces of a word share their word's draw
    positions = (draw < probability if also is None else (draw < probability) | also) & (word_ids >= 0)
    kind = draws.uniform(*ids.shape, device=ids.device)
    words = (first_word_id + draws.uniform(*ids.shape, device=ids.device) * (vocab_size - first_word_id)).long()
    masked = torch.where(positions & (kind < 0.8), torch.full_like(ids, mask_id), ids)
    return Masked(torch.where(positions & (kind >= 0.9), words, masked), positions)


def soft_cross_entropy(logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: Tensor | float) -> Tensor:
    """(1 - alpha) CE(labels) + alpha CE(softmax(teacher)), mean over (M, V) rows; 0 when there is none."""
    log_probabilities = F.log_softmax(logits.float(), dim=-1)
    losses = -log_probabilities.gather(1, labels[:, None])[:, 0]
    if teacher is not None:
        soft = -(F.softmax(teacher.float(), dim=-1) * log_probabilities).sum(-1)
        losses = (1 - alpha) * losses + alpha * soft
    return losses.sum() / max(len(losses), 1)


class MLM(nn.Module):
    """Needs a fusion. Logits are computed at masked positions only. With a teacher its head's distribution is mixed in.
    `masking` masks words beside those that are drawn one by one. `alone` shows no picture (UNIMO's text branch), under
    the name `lm` in the report.

    `mask_id`, `first_word_id`: the tokenizer's [MASK] and the first id that is an ordinary word; bert-base-uncased's
    are the defaults.
    """

    def __init__(
        self,
        *,
        width: int,
        vocab_size: int = 30522,
        probability: float = 0.15,
        whole_words: bool = False,
        mask_id: int = 103,
        first_word_id: int = 999,
        masking: WordMasking | None = None,
        alone: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.masking = masking
        self.alone = alone
        self.head = WordHead(width=width, vocab_size=vocab_size)
        self.vocab_size = vocab_size
        self.probability = probability
        self.whole_words = whole_words
        self.mask_id = mask_id
        self.first_word_id = first_word_id
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Loss and accuracy over the masked positions of the batch, of all ranks' batches together."""
        batch = view.batch
        masked = mask_words(
            batch.text_ids,
            batch.word_ids,
            probability=self.probability,
            whole_words=self.whole_words,
            mask_id=self.mask_id,
            first_word_id=self.first_word_id,
            vocab_size=self.vocab_size,
            also=None if self.masking is None else self.masking.words(batch),
        )
        labels = batch.text_ids[masked.positions]
        logits = _predict(view, self.head, masked, self.alone)
        teacher, alpha = None, cast(Tensor | float, 0.0)
        if view.momentum is not None and view.teacher is not None:
            with torch.no_grad():
                teacher = _predict(view.teacher, view.momentum.copy["mlm"], masked, self.alone)
            alpha = view.momentum.alpha()
        weight = rank_weight(len(labels), labels.device)  # ranks mask different numbers of words
        value = weight * soft_cross_entropy(logits, labels, teacher, alpha)
        right = weight * (logits.argmax(-1) == labels).float().sum() / max(len(labels), 1)
        name = "lm" if self.alone else "mlm"
        return Loss(value, {name: value.detach(), f"{name}_accuracy": right})


def _predict(view: View, head: nn.Module, masked: Masked, alone: bool) -> Tensor:
    """(M, V) logits at the masked positions, in row order."""
    text: Stream = view.model.encode_text(masked.ids, view.batch.text_mask)
    prepared = view.prepared_nothing if alone else view.prepared
    tokens = view.model.fusion.read(text, prepared, view.batch.image_row, masked.positions)  # type: ignore[union-attr, operator]
    return cast(Tensor, head(tokens, view.model.text.embeddings.word.weight))  # type: ignore[union-attr]
