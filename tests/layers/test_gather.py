"""W ranks equal one rank with the joined batch, in loss and gradients, for every loss that gathers, in every form."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests import ranks
from tests.parts import WIDTH, batch, one_stream, two_stream
from vlp.config import build, lazy
from vlp.objectives.intra_modal import IntraModalContrast
from vlp.objectives.itc import ITC
from vlp.objectives.late_contrast import LateContrast
from vlp.objectives.sigmoid import SigmoidContrast
from vlp.objectives.word_patch_contrast import WordPatchContrast
from vlp.similarity.late import LateInteraction
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View

SIZE = 12  # pairs of the joined batch: divides by 1, 2 and 3
OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "itc": ITC,
    "itc, smoothed": lambda **options: ITC(smoothing=0.1, **options),
    "itc with teacher and queue": ITC,
    "within a modality, with teacher and queue": IntraModalContrast,
    "sigmoid": SigmoidContrast,
    "late interaction": lambda: LateContrast(max_length=12),
    "words and patches of one stream": partial(WordPatchContrast, max_length=12),
}
FORMS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in OBJECTIVES]
FORMS += [(name, {"chunk": 3}) for name in OBJECTIVES if name != "late interaction"]
FORMS += [("sigmoid", {"ring": True}), ("sigmoid", {"ring": True, "chunk": 3}), ("sigmoid", {"chunk": 50})]


def part(b: Batch, rank: int, world: int) -> Batch:
    n = len(b) // world
    cut = slice(rank * n, (rank + 1) * n)
    names = ("text_ids", "text_mask", "word_ids", "image_id", "caption_id", "image")
    return replace(b, **{k: getattr(b, k)[cut] for k in names})


def make(form: str, options: dict[str, Any]) -> tuple[Task, nn.Module]:
    """The tiny system in float64 and the objective; with a queue whose slots are half written."""
    torch.manual_seed(0)
    parts = one_stream() if "one stream" in form else two_stream(teacher="queue" in form)
    parts["model"].kwargs["similarities"]["late"] = lazy(LateInteraction)(
        image_width=WIDTH, text_width=WIDTH, embed_dim=8
    )
    task: Task = build(lazy(Task)(**parts))
    if task.teacher is not None:
        ids = torch.arange(100, 110)
        rows = torch.nn.functional.normalize(torch.randn(10, 16), dim=1)
        task.teacher.update([(rows, rows.flip(0), ids)])
    return task.double(), OBJECTIVES[form](**options).double()


def loss_and_gradients(b: Batch, form: str, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """In the plain form, or in another one."""
    task, objective = make(form, options or {})
    assert b.image is not None
    value = objective(View(task.model, replace(b, image=b.image.double()), momentum=task.teacher)).value
    value.backward()
    named = [*task.model.named_parameters(), *objective.named_parameters()]
    return value.detach(), {name: p.grad for name, p in named if p.grad is not None}


def work(folder: str) -> None:
    """One rank: every form on its part of the batch, averaged over the ranks as DDP does."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    for i, (form, options) in enumerate(FORMS):
        value, gradients = loss_and_gradients(part(batch(SIZE), rank, world), form, options)
        for tensor in [value, *gradients.values()] if world > 1 else []:
            dist.all_reduce(tensor)
            tensor /= world
        if rank == 0:
            torch.save({"value": value, **gradients}, f"{folder}/{i}.pt")


@pytest.mark.parametrize("world", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_and_chunks_equal_the_plain_form_of_the_joined_batch(world: int, tmp_path: Path) -> None:
    ranks.finish(ranks.start(world, tmp_path / "run", work, str(tmp_path)), tmp_path / "run")
    plain = {form: loss_and_gradients(batch(SIZE), form) for form in OBJECTIVES}
    for i, (form, options) in enumerate(FORMS):
        joined = torch.load(tmp_path / f"{i}.pt", weights_only=True)
        value, gradients = plain[form]
        torch.testing.assert_close(joined.pop("value"), value, rtol=1e-7, atol=1e-7)
        assert joined.keys() == gradients.keys()
        assert len(gradients) > (30 if "one stream" in form else 40)  # of 36, and of 64 or more
        for name, gradient in gradients.items():
            where = f"{form} {options}, {name}"
            torch.testing.assert_close(
                joined[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda m, where=where: f"{where}: {m}"
            )
