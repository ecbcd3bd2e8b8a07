"""Masked tags: what does the detector say of this picture? (Oscar's masked token loss on its tags, Li 2020, eq. 2)"""

from typing import Any, cast

import torch
from torch import nn

from vlp.layers.draws import some
from vlp.layers.gather import rank_weight
from vlp.layers.word_head import WordHead
from vlp.objectives.mlm import soft_cross_entropy
from vlp.types import Loss, Tags
from vlp.view import View


class MaskedTags(nn.Module):
    """A share of the tags of each picture, one at least, is masked and told by a head on the fused image tokens.

    Needs `VLModel(tags=True)` and a fusion that gives back image tokens. Beside `MLM` on the words this is Oscar's
    masked token loss over words and tags.
    """

    def __init__(
        self, *, width: int, vocab_size: int = 30522, mask_id: int = 103, probability: float = 0.15, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.told = WordHead(width=width, vocab_size=vocab_size)
        self.mask_id = mask_id
        self.probability = probability
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Cross entropy and accuracy over the masked tags of all ranks."""
        tags = cast(Tags, view.batch.tags)
        hidden = some(tags.mask, self.probability)
        masked = Tags(torch.where(hidden, torch.full_like(tags.ids, self.mask_id), tags.ids), tags.mask)
        fused = view.fused_with(view.model.with_tags(view.seen, masked))
        if fused.image is None:
            raise ValueError("masked tags need a fusion that gives image tokens (OneStream)")
        row, wanted = view.batch.image_row, tags.ids
        if row is not None:
            hidden, wanted = hidden[row], wanted[row]
        logits = self.told(
            fused.image.tokens[:, : hidden.shape[1]][hidden], cast(Any, view.model.text).embeddings.word.weight
        )
        labels = wanted[hidden]
        weight = rank_weight(len(labels), labels.device)  # pictures have different numbers of tags
        value = weight * soft_cross_entropy(logits, labels, None, 0.0)
        right = weight * (logits.argmax(-1) == labels).float().sum() / max(len(labels), 1)
        return Loss(value, {"mtl": value.detach(), "mtl_accuracy": right})
