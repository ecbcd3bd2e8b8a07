"""A slow captioner teaches a fast dual encoder (Thinking fast and slow, Miech 2021, sections 3.2 and 3.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.objectives import negatives
from vlp.objectives.captioning import Captioning
from vlp.types import Loss, Stream
from vlp.view import View


def log_likelihood(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """(M, V) logits of the words `labels` (R, L) that are `present` (R, L), in row order -> (R,) log p(caption |
    picture)."""
    each = F.log_softmax(logits.float(), dim=-1).gather(1, labels[present][:, None])[:, 0]
    return each.new_zeros(present.shape).masked_scatter(present, each).sum(1)


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

    Needs the similarity "itc" and a causal text part (`BertText(causal=True)`), whose words the slow fusion reads on;
    `slow` has no decoder of its own. Memory: one caption of each picture is scored at a time, V logits for each word.
    """

    def __init__(
        self,
        *,
        slow: Captioning,
        candidates: int = 4,
        temperature: float = 10.0,
        distillation: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if slow.decoder is not None:
            raise ValueError("the fusion scores the captions; leave out the decoder of the slow model's captioning")
        self.slow = slow
        self.candidates = candidates
        self.temperature = temperature
        self.distillation = distillation
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Captioning plus `distillation` times the cross entropy of the fast model to the slow one."""
        logits = self.slow.logits(view)
        caption = self.slow.loss(view, logits)
        ids = view.batch.image_id
        own = torch.arange(len(ids), device=ids.device)
        texts, allowed = [own], [torch.ones_like(own, dtype=torch.bool)]
        for _ in range(self.candidates - 1):
            other, there = negatives.sample_negatives(torch.zeros(len(ids), len(ids), device=ids.device), ids)
            texts.append(other)
            allowed.append(there)
        with torch.no_grad():
            likelihoods = [_likelihood(view, own, logits), *(self._scored(view, text) for text in texts[1:])]
            slow = torch.stack(likelihoods, 1) / self.temperature
        fast = [(view.image_embedding * view.text_embedding[text]).sum(1) for text in texts]
        value = distillation_loss(view.model.contrast.scale() * torch.stack(fast, 1), slow, torch.stack(allowed, 1))
        report = caption.report | {"distillation": value.detach()}
        return Loss(caption.value + self.distillation * value, report)

    def _scored(self, view: View, text: Tensor) -> Tensor:
        """(B,) of each pair's picture with the caption of the pair `text` (B,)."""
        model: Any = view.model
        stream, batch = view.text, view.batch
        rows = torch.arange(len(text), device=text.device) if batch.image_row is None else batch.image_row
        states = model.fusion.decode(Stream(stream.tokens[text], stream.mask[text]), view.prepared, rows)
        told = self.slow.told(states[:, :-1][batch.text_mask[text][:, 1:]], model.text.embeddings.word.weight)
        return _likelihood(view, text, told)


def _likelihood(view: View, text: Tensor, logits: Tensor) -> Tensor:
    """(R,) of the captions `text` (R,) by the (M, V) logits of their words."""
    return log_likelihood(logits, view.batch.text_ids[text][:, 1:], view.batch.text_mask[text][:, 1:])
