"""A slow captioner teaches a fast dual encoder (Thinking fast and slow, Miech 2021, sections 3.2 and 3.3)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.objectives import negatives
from vlp.objectives.captioning import caption_loss
from vlp.similarity.likelihood import CaptionLikelihood, log_likelihood
from vlp.types import Loss
from vlp.view import View


def distillation_loss(fast: Tensor, slow: Tensor, allowed: Tensor) -> Tensor:
    """Cross entropy of the fast model's distribution over K captions to the slow one's, mean over (B, K) rows.

    Captions that are not `allowed` (B, K) take no part; each row has one at least.
    """
    away = float("-inf")
    wanted = F.softmax(slow.masked_fill(~allowed, away), dim=1)
    found = F.log_softmax(fast.masked_fill(~allowed, away), dim=1).masked_fill(~allowed, 0.0)
    return -(wanted * found).sum(1).mean()


class FastSlow(nn.Module):
    """The slow model learns to caption; of each picture's caption and `candidates` - 1 others of the batch, the fast
    one learns how likely the slow one finds them, over `temperature`. The slow model's scores get no gradient.

    Needs the similarities "itc" and "slow" (`CaptionLikelihood`): what is trained here is what ranks. Memory: one
    caption of each picture is scored at a time, V logits for each word.
    """

    def __init__(
        self, *, candidates: int = 4, temperature: float = 10.0, distillation: float = 1.0, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.candidates = candidates
        self.temperature = temperature
        self.distillation = distillation
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Captioning plus `distillation` times the cross entropy of the fast model to the slow one."""
        ids = view.batch.image_id
        own = torch.arange(len(ids), device=ids.device)
        logits, labels, present = _told(view, own)
        caption = caption_loss(logits, labels[present])
        texts, allowed = [own], [torch.ones_like(own, dtype=torch.bool)]
        for _ in range(self.candidates - 1):
            other, there = negatives.sample_negatives(torch.zeros(len(ids), len(ids), device=ids.device), ids)
            texts.append(other)
            allowed.append(there)
        with torch.no_grad():
            others = [log_likelihood(*_told(view, text)) for text in texts[1:]]
            slow = torch.stack([log_likelihood(logits, labels, present), *others], 1) / self.temperature
        fast = [(view.image_embedding * view.text_embedding[text]).sum(1) for text in texts]
        value = distillation_loss(view.model.contrast.scale() * torch.stack(fast, 1), slow, torch.stack(allowed, 1))
        report = caption.report | {"distillation": value.detach()}
        return Loss(caption.value + self.distillation * value, report)


def _told(view: View, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair's picture tells the caption of the pair `text` (B,): (M, V) logits, its words behind the first (B, L)
    and which of them are present."""
    model, some = view.model, view.text.select(text)
    slow, words = cast(CaptionLikelihood, model.similarities["slow"]), cast(Any, model.text).embeddings.word.weight
    logits = slow(model.decode(some, view.prepared, view.batch.image_row), some.mask, words)
    return logits, view.batch.text_ids[text][:, 1:], some.mask[:, 1:]
