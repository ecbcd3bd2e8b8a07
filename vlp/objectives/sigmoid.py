"""Pairwise sigmoid contrast: each pair is told right or wrong by itself (SigLIP, Zhai 2023, algorithm 1)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from vlp.layers.chunks import sum_over_rows
from vlp.layers.gather import world_size
from vlp.layers.ring import start_shift
from vlp.types import Loss
from vlp.view import View


def sigmoid_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """Sum over (B, K) logits of -log sigmoid(+score) where `positive`, -log sigmoid(-score) elsewhere, divided by B."""
    return -F.logsigmoid(torch.where(positive, scores, -scores)).sum() / len(scores)


class SigmoidContrast(nn.Module):
    """Needs the similarity "itc", at temperature 0.1 to begin as published, and no teacher. Every pair of one image is
    a positive. It reads nothing of a view but embeddings and image ids.

    Local images meet the texts of all ranks, so that each pair of the global batch counts once. `chunk` texts are
    scored at a time and scored again in the backward pass: memory per rank is then B x chunk, not B x W B, beside the
    W B texts gathered. With `ring` the texts of one rank are there at a time and travel from rank to rank (section 3.3
    of the paper): B x chunk beside B texts, in W rounds. The loss and its gradients are the same in all forms.
    """

    embeddings_alone = True

    def __init__(
        self, *, weight: float = 1.0, bias: float = -10.0, chunk: int | None = None, ring: bool = False
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.tensor([bias]))  # (1,), so that it can be cut
        self.chunk = chunk
        self.ring = ring

    def forward(self, view: View) -> Loss:
        """Loss over local images x texts of all ranks. Raises ValueError with a teacher, whose queue it cannot use."""
        if view.momentum is not None:
            raise ValueError("the sigmoid contrast has no use for a teacher or its queue; set teacher=null")
        scale, ids, bias = view.model.contrast.scale(), view.batch.image_id, self.bias[0]
        if self.ring:
            pieces = (view.image_embedding, view.text_embedding, scale, bias, ids)
            total: Tensor = _Ring.apply(*pieces, self.chunk or len(ids))
        else:
            c = view.contrast
            total = sum_over_rows(
                lambda texts, others: _scored(c.image, texts, scale, bias, ids[:, None] == others),
                (c.text_candidates, c.candidate_ids),
                self.chunk,
            )
        report = {"sigmoid": total, "logit_scale": scale, "logit_bias": bias}
        return Loss(total, {name: value.detach() for name, value in report.items()})


def _scored(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    return sigmoid_loss(scale * image @ text.T + bias, positive)


class _Ring(Function):
    """The loss of local images with the texts of all ranks as they come by, `chunk` at a time.

    Gradients are taken in the forward pass, while a text is here, and a text's gradient travels on with it; the
    backward pass only scales them, by a factor that must be the same on all ranks (the objective's weight, a loss
    scale). Traffic per rank: W B texts, ids and gradients.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, chunk: int) -> Tensor:
        ours = [t.detach().requires_grad_() for t in (image, scale, bias)]
        sums = [torch.zeros_like(t) for t in (image, scale, bias)]
        total, others, travelling = torch.zeros_like(scale), ids, torch.zeros_like(text)
        for _ in range(world_size()):
            coming = start_shift(text), start_shift(others)
            travelling = travelling.clone()
            for start in range(0, len(text), chunk):
                cut = slice(start, start + chunk)
                some = text[cut].detach().requires_grad_()
                with torch.enable_grad():
                    value = _scored(ours[0], some, ours[1], ours[2], ids[:, None] == others[cut])
                *own, theirs = torch.autograd.grad(value, [*ours, some])
                for kept, gradient in zip(sums, own, strict=True):
                    kept += gradient
                travelling[cut] += theirs
                total = total + value.detach()
            travelling = start_shift(travelling)()
            text, others = (wait() for wait in coming)
        ctx.save_for_backward(sums[0], travelling, sums[1], sums[2])
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grads[0] * gradient for gradient in ctx.saved_tensors), None, None)
