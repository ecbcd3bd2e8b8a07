"""What is trained: model, objectives and teacher behind one `forward`, so that DDP and ZeRO see every parameter."""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.model import VLModel
from vlp.similarity.cosine import CosineSimilarity
from vlp.teacher import Teacher
from vlp.types import Batch, Loss
from vlp.view import View


class Task(nn.Module):
    """`forward(batch)` sums the weighted losses and changes nothing; `after_step()` moves teacher, queue and clamps."""

    def __init__(self, *, model: VLModel, objectives: dict[str, nn.Module], teacher: Teacher | None = None) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("a task needs at least one objective")
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.teacher = teacher
        self.whole_rows = any(getattr(o, "whole_rows", False) for o in objectives.values())
        if teacher is not None:
            teacher.attach(model, _heads(objectives))
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch) -> Loss:
        """Weighted sum of the objectives on one batch, with every objective's report."""
        view = View(self.model, batch, momentum=self.teacher, whole_rows=self.whole_rows)
        losses = {name: objective(view) for name, objective in self.objectives.items()}
        value = torch.stack([self._weight(name) * loss.value for name, loss in losses.items()]).sum()
        report = {key: v for loss in losses.values() for key, v in loss.report.items()}
        if self.training and self.teacher is not None and self.teacher.has_queue:
            self._remember(view)
        return Loss(value, {"loss": value.detach()} | report)

    def after_step(self) -> None:
        """Once an optimizer step: momentum update, queue push, temperature clamp."""
        if "itc" in self.model.similarities:
            cast(CosineSimilarity, self.model.similarities["itc"]).clamp()
        if self.teacher is not None:
            self.teacher.update(self._pending)
        self._pending = []

    def sync_teacher(self) -> None:
        """Make the teacher equal to the model, after weights were loaded into the model."""
        if self.teacher is not None:
            self.teacher.sync()

    def _weight(self, name: str) -> float:
        return cast(float, self.objectives[name].weight)

    def _remember(self, view: View) -> None:
        # What `update` will push: this step's teacher embeddings lead the candidates.
        candidates, pushed = view.contrast, len(view.contrast.candidate_ids) - cast(Teacher, self.teacher).queue_size
        self._pending.append(
            (
                candidates.image_candidates[:pushed].detach(),
                candidates.text_candidates[:pushed].detach(),
                candidates.candidate_ids[:pushed],
            )
        )


def _heads(objectives: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Objectives' heads that the teacher copies, to give soft targets."""
    return {name: cast(nn.Module, o.head) for name, o in objectives.items() if hasattr(o, "head")}
