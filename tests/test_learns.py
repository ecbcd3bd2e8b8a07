"""A system of each architecture learns to look, in a world of plain or striped pictures in four colours.

The short form of `benchmarks/learn.py`, with its measures; the tiny forms of the systems with their own objectives.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.learned import matching, retrieval, words
from tests.systems import tiny
from vlp.objectives.mlm import MLM
from vlp.task import Task
from vlp.training import build_task
from vlp.types import Batch, Regions
from vlp.view import View

COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
KINDS = 8  # four colours, plain and striped
FIRST = 10  # id of the first word
MEANING = torch.where(torch.arange(160) >= FIRST, torch.arange(160), -1)


def pictures(kind: Tensor) -> Tensor:
    """(B,) kinds -> (B, 3, 48, 48)."""
    plain = COLOURS[kind % 4][:, :, None, None].expand(-1, -1, 48, 48)
    stripes = torch.where(torch.arange(48) % 8 < 4, 1.0, -0.5)[None, None, :, None]
    return torch.where((kind >= 4)[:, None, None, None], plain * stripes, plain) + 0.1 * torch.randn(
        len(kind), 3, 48, 48
    )


def batch_of(kind: Tensor) -> Batch:
    """`[CLS] colour texture [SEP]` with the picture, or with one region that shows it; kinds are the image ids."""
    ids = torch.stack([torch.full_like(kind, 2), FIRST + kind % 4, FIRST + 4 + kind // 4, torch.full_like(kind, 3)], 1)
    places = torch.tensor([-1, 0, 1, -1]).expand(len(kind), -1)
    shown = torch.zeros(len(kind), 1, 64)
    shown[torch.arange(len(kind)), 0, kind % 4] = 4.0
    shown[torch.arange(len(kind)), 0, 4 + kind // 4] = 4.0
    shown = shown + 0.1 * torch.randn_like(shown)
    box = torch.tensor([0.0, 0, 1, 1]).expand(len(kind), 1, 4)
    classes = torch.nn.functional.one_hot(kind % 4, 7)[:, None].float()
    regions = Regions(shown, box, classes, torch.ones(len(kind), 1, dtype=torch.bool))
    return Batch(
        text_ids=ids, text_mask=ids > 0, word_ids=places, image_id=kind, caption_id=torch.arange(len(kind)),
        image=pictures(kind), regions=regions,
    )  # fmt: skip


def batches(count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield batch_of(torch.randperm(16) % KINDS)


def learned(name: str, steps: int) -> Task:
    config = tiny(name)
    config.teacher = None  # a momentum teacher of random weights teaches nothing in so few steps
    for objective in config.objectives.values():
        part: Any = objective
        if part.target is MLM:
            part.kwargs["probability"] = 0.5
    task = build_task(config, read_weights=False).train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1.5e-3, betas=(0.9, 0.98))
    torch.manual_seed(0)
    for step, batch in enumerate(batches(steps)):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min((step + 1) / 20, 1.0)
        task(batch).value.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        task.after_step()
    return task.eval()


@torch.no_grad()
def figures(task: Task) -> dict[str, float]:
    torch.manual_seed(1)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(4):
        view = View(task.model, batch_of(torch.randperm(KINDS)))
        row = words(view, task, MEANING) | matching(view, task) | retrieval(view)
        found = {name: [*found.get(name, []), pair] for name, pair in row.items()}
    return {name: sum(p[0] for p in pairs) / sum(p[1] for p in pairs) for name, pairs in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("vilt", 150), ("uniter", 150), ("albef", 200), ("meter", 200)])
def test_masked_words_are_read_off_the_picture_and_pairs_are_matched(name: str, steps: int) -> None:
    found = figures(learned(name, steps))
    assert found["words with picture"] - found["words with another"] > 0.3, found
    assert found["matching"] > 0.9, found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("clip", 80), ("filip", 80)])
def test_captions_find_their_picture(name: str, steps: int) -> None:
    assert figures(learned(name, steps))["retrieval"] > 0.9


def test_a_model_that_has_learned_nothing_does_not_look() -> None:
    config = replace(tiny("vilt"), teacher=None)
    found = figures(build_task(config, read_weights=False).eval())
    assert abs(found["words with picture"] - found["words with another"]) < 0.15
    assert found["matching"] < 0.75
