"""What is trained: model, objectives and teacher behind one `forward`, so that DDP and ZeRO see every parameter."""

from random import Random
from typing import cast

import torch
from torch import Tensor, nn

from vlp import gradient_cache
from vlp.engine.seeds import step_seed
from vlp.gradient_cache import CachedContrast, Embedded
from vlp.model import VLModel
from vlp.teacher import Teacher
from vlp.types import Batch, Loss
from vlp.view import View


class Task(nn.Module):
    """`forward(batch)` sums the weighted losses and changes nothing; `after_step()` moves teacher, queue and clamps.

    With `mix` each step of the training takes one objective, drawn with these shares from (`mix_seed`, step): all ranks
    and micro steps take the same, and a resumed run what an unbroken one takes. Parameters that this objective
    does not read get a gradient of zeros, so that DDP never waits for them; their Adam state decays meanwhile.
    """

    def __init__(
        self,
        *,
        model: VLModel,
        objectives: dict[str, nn.Module],
        teacher: Teacher | None = None,
        mix: dict[str, float] | None = None,
        mix_seed: int = 0,
    ) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("a task needs at least one objective")
        if mix is not None and (set(mix) != set(objectives) or min(mix.values()) <= 0):
            raise ValueError(f"mix {mix} must give every objective ({', '.join(objectives)}) a share above 0")
        self.mix = mix
        self.mix_seed = mix_seed
        if mix is not None:
            self.register_buffer("mix_steps", torch.zeros((), dtype=torch.int64))
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.teacher = teacher
        self.whole_rows = any(getattr(o, "whole_rows", False) for o in objectives.values())
        if teacher is not None:
            teacher.attach(model, _heads(objectives))
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch, cache: CachedContrast | None = None) -> Loss:
        """Weighted sum of the objectives on one batch, with every objective's report. Those in `cache` are taken from
        there: their values are of the whole step."""
        view = self._view(batch)
        drawn = self.drawn()
        pull = None if cache is None else gradient_cache.drive(view, cache)
        cached = {} if cache is None else cache.losses
        losses = {name: cached[name] if name in cached else cast(Loss, self.objectives[name](view)) for name in drawn}
        value = torch.stack([self._weight(name) * loss.value for name, loss in losses.items()]).sum()
        value = value if pull is None else value + pull
        if len(drawn) < len(self.objectives):
            value = value + 0.0 * torch.stack([p.reshape(-1)[0] for p in self.parameters() if p.requires_grad]).sum()
        report = {key: v for loss in losses.values() for key, v in loss.report.items()}
        if self.training and self.teacher is not None and self.teacher.has_queue:
            self._remember(view)
        return Loss(value, {"loss": value.detach()} | report)

    def drawn(self) -> list[str]:
        """The objectives of this step: all, or in training with a mix the one drawn."""
        if self.mix is None or not self.training:
            return list(self.objectives)
        names, shares = zip(*self.mix.items(), strict=True)
        random = Random(step_seed(self.mix_seed, int(cast(Tensor, self.mix_steps)), 0, 0))
        return random.choices(names, shares)

    def cacheable(self) -> dict[str, nn.Module]:
        """The objectives of this step that read nothing but embeddings, so that gradient caching applies to them."""
        return {name: self.objectives[name] for name in self.drawn() if embeddings_alone(self.objectives[name])}

    def embed(self, batch: Batch) -> Embedded:
        """A micro batch's embeddings, for `contrast`."""
        return gradient_cache.embed(self._view(batch))

    def contrast(self, parts: list[Embedded]) -> list[CachedContrast]:
        """The cache of each micro batch of a step, once all are embedded; for `forward`."""
        self._tell("discard_step")  # what the embedding left for `after_step` comes again with each forward
        read = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return gradient_cache.contrast(self.model, self.teacher, self.cacheable(), read, parts)

    def after_step(self) -> None:
        """Once an optimizer step: teacher and queue, running statistics, dictionaries, the mix's step, temperatures."""
        if self.mix is not None:
            cast(Tensor, self.mix_steps).add_(1)
        self._tell("after_step")
        if self.teacher is not None:
            self.teacher.update(self._pending)
        self._pending = []

    def discard_step(self) -> None:
        """Instead of `after_step` for a step that is not taken: forget what its forward passes left for it."""
        self._tell("discard_step")
        self._pending = []

    def _tell(self, method: str) -> None:
        """Call a method on every part of model and objectives that has it, parts within parts included."""
        for part in (p for whole in (self.model, self.objectives) for p in whole.modules()):
            if hasattr(part, method):
                getattr(part, method)()

    def sync_teacher(self) -> None:
        """Make the teacher equal to the model, after weights were loaded into the model."""
        if self.teacher is not None:
            self.teacher.sync()

    def _view(self, batch: Batch) -> View:
        return View(self.model, batch, momentum=self.teacher, whole_rows=self.whole_rows)

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


def embeddings_alone(objective: nn.Module) -> bool:
    """Whether an objective reads nothing of a view but its embeddings and image ids."""
    return bool(getattr(objective, "embeddings_alone", False))
