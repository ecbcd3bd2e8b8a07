"""Contrast over all micro batches of a step at the memory of one (GradCache, Gao 2021, arXiv 2101.06983, section 3).

1. Each micro batch is embedded without a graph. 2. The contrast of all embeddings gives each embedding's gradient.
3. Each micro batch is encoded again, and its embeddings are driven by the gradients kept for them. The sum of the
gradients is exactly that of one micro batch which holds all pairs, at the price of a second forward pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlp.model import VLModel
from vlp.types import Batch, Loss
from vlp.view import View


@dataclass
class Embedded:
    """One micro batch, embedded without gradient."""

    ids: Tensor  # (B,) image ids
    image: Tensor  # (B, E)
    text: Tensor  # (B, E)
    taught: tuple[Tensor, Tensor] | None  # the teacher's image and text embeddings


@dataclass
class CachedContrast:
    """What the contrast of a step's micro batches leaves for one of them."""

    losses: dict[str, Loss]  # of the whole step, without gradient
    image: Tensor  # (B, E): gradient of their weighted sum, times the number of micro batches
    text: Tensor
    parameters: list[tuple[Tensor, Tensor]]  # temperature and bias, and their gradients
    taught: tuple[Tensor, Tensor] | None


def embed(view: View) -> Embedded:
    """Image before text, always: the draws of dropout then repeat from the same seed."""
    image, text, teacher = view.image_embedding, view.text_embedding, view.teacher
    taught = None if teacher is None else (teacher.image_embedding.detach(), teacher.text_embedding.detach())
    return Embedded(view.batch.image_id, image.detach(), text.detach(), taught)


def contrast(
    model: VLModel,
    momentum: Any | None,
    objectives: dict[str, nn.Module],
    parameters: Iterable[Tensor],
    parts: list[Embedded],
) -> list[CachedContrast]:
    """The objectives' losses over all `parts`, as a cache for each. Collective where the objectives gather.

    `parameters` are those that the losses may read beside the embeddings.
    """
    image, text = (torch.cat([getattr(part, side) for part in parts]).requires_grad_() for side in ("image", "text"))
    with torch.enable_grad():  # before the view is made: what it makes has a gradient if it was made with one
        view = View(model, nothing_but(torch.cat([part.ids for part in parts])), momentum=momentum)
        view.image_embedding, view.text_embedding = image, text
        if parts[0].taught is not None:
            pairs = [cast(tuple[Tensor, Tensor], part.taught) for part in parts]
            _teach(view, (torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])))
        losses = {name: cast(Loss, objective(view)) for name, objective in objectives.items()}
        weighted = [cast(float, objectives[name].weight) * loss.value for name, loss in losses.items()]
        read = list(parameters)
        gradients = torch.autograd.grad(torch.stack(weighted).sum(), [image, text, *read], allow_unused=True)
    told = {name: Loss(loss.value.detach(), loss.report) for name, loss in losses.items()}
    found = [(p, g) for p, g in zip(read, gradients[2:], strict=True) if g is not None]
    sizes = [len(part.ids) for part in parts]
    sides = [(len(parts) * gradient).split(sizes) for gradient in gradients[:2]]
    return [CachedContrast(told, sides[0][i], sides[1][i], found, part.taught) for i, part in enumerate(parts)]


def drive(view: View, cache: CachedContrast) -> Tensor:
    """A scalar of value 0 whose gradient is the cached one. First of all that reads the view: see `embed`.

    It leaves the teacher's embeddings to the view, so that they are not made twice.
    """
    pulls = [(view.image_embedding * cache.image).sum(), (view.text_embedding * cache.text).sum()]
    pulls += [(parameter * gradient).sum() for parameter, gradient in cache.parameters]
    if cache.taught is not None:
        _teach(view, cache.taught)
    total = torch.stack(pulls).sum()
    return total - total.detach()


def _teach(view: View, taught: tuple[Tensor, Tensor]) -> None:
    teacher = cast(View, view.teacher)
    teacher.image_embedding, teacher.text_embedding = taught


def nothing_but(ids: Tensor) -> Batch:
    """A batch of image ids."""
    empty = ids.new_zeros(len(ids), 0)
    return Batch(text_ids=empty, text_mask=empty.bool(), word_ids=empty, image_id=ids, caption_id=ids)
