"""Momentum teacher and feature queues (MoCo, He 2020; ALBEF, Li 2021, section 3.2-3.3). Changed by `update` alone."""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.shards import held
from vlp.model import VLModel

NOBODY = -2  # id of a random start of the queue: a candidate, but no picture's; -1 is a slot left out


class Teacher(nn.Module):
    """An exponential moving average of the student and a ring of its past embeddings.

    Soft targets weigh `alpha`, ramped linearly over the first `ramp_steps` steps. The queue holds `queue_size` image
    and text embeddings with their image ids; slots not yet written carry the id -1 and a zero vector, and are left
    out. With `random_queue` the queue starts full of random unit vectors that belong to no picture (MoCo). Any queue
    size goes with any batch: the ring wraps. The copy never drops out.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.995,
        queue_size: int = 65536,
        alpha: float = 0.4,
        ramp_steps: int = 1000,
        random_queue: bool = False,
    ) -> None:
        super().__init__()
        self.random_queue = random_queue
        self.momentum = momentum
        self.queue_size = queue_size
        self.alpha_max = alpha
        self.ramp_steps = ramp_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: Tensor

    def attach(self, model: VLModel, heads: dict[str, nn.Module]) -> None:
        """Copy the student and the heads that give soft targets, and make the queues."""
        self.copy = nn.ModuleDict({"model": copy.deepcopy(model), **copy.deepcopy(heads)})
        self.copy.requires_grad_(False)
        self.source = [model, *heads.values()]  # a plain list: the student is not a part of the teacher
        self.has_queue = self.queue_size > 0 and "itc" in model.similarities
        if self.has_queue:
            dim = model.contrast.embed_dim
            self.register_buffer("queue_image", self._first(dim))
            self.register_buffer("queue_text", self._first(dim))
            self.register_buffer("queue_ids", torch.full((self.queue_size,), NOBODY if self.random_queue else -1))
            self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))

    def _first(self, dim: int) -> Tensor:
        """What a queue holds before the first step."""
        if self.random_queue:
            return F.normalize(torch.randn(self.queue_size, dim), dim=1)
        return torch.zeros(self.queue_size, dim)

    @property
    def model(self) -> VLModel:
        """The momentum copy of the model."""
        return cast(VLModel, self.copy["model"])

    def alpha(self) -> Tensor:
        """Weight of the soft targets now, a scalar tensor."""
        return self.alpha_max * (self.steps / max(self.ramp_steps, 1)).clamp(max=1.0)

    def with_queue(self, image: Tensor, text: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """This step's teacher embeddings followed by the queue's: (K, E), (K, E), (K,) with K = W B + Q."""
        if not self.has_queue:
            return image, text, ids
        buffers: Any = self
        return (
            torch.cat([image, buffers.queue_image]),
            torch.cat([text, buffers.queue_text]),
            torch.cat([ids, buffers.queue_ids]),
        )

    @torch.no_grad()
    def update(self, pending: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """After an optimizer step: move the copy towards the student and push (image, text, ids) onto the queue."""
        ours = list(self.copy.parameters())
        theirs = [p for part in self.source for p in part.parameters()]
        moving = [(o, t) for o, t in zip(ours, theirs, strict=True) if t.requires_grad]
        parts = [pair for o, t in moving for pair in zip(held(o), held(t), strict=True)]
        torch._foreach_lerp_([o for o, _ in parts], [t for _, t in parts], 1 - self.momentum)
        self._copy_buffers()
        for image, text, ids in pending if self.has_queue else []:
            self._push(image, text, ids)
        self.steps += 1

    @torch.no_grad()
    def sync(self) -> None:
        """Make the copy equal to the student."""
        theirs = [p for part in self.source for p in part.parameters()]
        for ours, student in zip(self.copy.parameters(), theirs, strict=True):
            ours.copy_(student)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        """Statistics and dictionaries are already averages: the copy reads the student's."""
        theirs = [b for part in self.source for b in part.buffers()]
        for ours, student in zip(self.copy.buffers(), theirs, strict=True):
            ours.copy_(student)

    def _push(self, image: Tensor, text: Tensor, ids: Tensor) -> None:
        buffers: Any = self
        image, text, ids = image[-self.queue_size :], text[-self.queue_size :], ids[-self.queue_size :]
        places = (buffers.queue_pointer + torch.arange(len(ids), device=ids.device)) % self.queue_size
        buffers.queue_image[places] = image.to(buffers.queue_image.dtype)
        buffers.queue_text[places] = text.to(buffers.queue_text.dtype)
        buffers.queue_ids[places] = ids
        buffers.queue_pointer.copy_((buffers.queue_pointer + len(ids)) % self.queue_size)

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode: targets are better without dropout."""
        super().train(False)
        return self
