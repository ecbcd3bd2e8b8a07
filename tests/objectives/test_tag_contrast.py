"""What is exchanged in Oscar's and VinVL's contrast, and how often."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from tests.systems import make
from vlp.objectives.tag_contrast import TagContrast, corrupted
from vlp.view import View


def test_half_is_kept_and_the_rest_is_shared_as_in_the_papers() -> None:
    draws = (torch.arange(10_000) + 0.5) / 10_000
    assert corrupted(draws, 2, 0.25).bincount().tolist() == [5000, 5000]  # Oscar: 50 % wrong tags
    assert corrupted(draws, 3, 0.25).bincount().tolist() == [5000, 2500, 2500]  # VinVL: 25 % tags, 25 % captions


def test_pairs_that_share_a_picture_are_those_of_repeated_ones() -> None:
    """In Oscar's tiny form, with every pair's tags and captions exchanged as drawn."""
    task, batch = make("oscar")
    row = torch.arange(len(batch)) // 2
    assert batch.regions is not None
    assert batch.tags is not None
    ids = torch.arange(len(batch)) // 2
    shared = replace(batch, image_id=ids, image_row=row, regions=first(batch.regions), tags=first(batch.tags))
    apart = replace(batch, image_id=ids, regions=of(shared.regions, row), tags=of(shared.tags, row))
    objective = next(o for o in task.objectives.values() if isinstance(o, TagContrast))
    losses = []
    for form in (shared, apart):
        torch.manual_seed(3)
        losses.append(objective(View(task.model, form)).value.detach())
    torch.testing.assert_close(losses[0], losses[1])


def of(part: Any, index: torch.Tensor) -> Any:
    return replace(part, **{f.name: v[index] for f in fields(part) if (v := getattr(part, f.name)) is not None})


def first(part: Any) -> Any:
    return of(part, torch.arange(len(part.mask) // 2))


def test_other_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="ways 4"):
        TagContrast(width=8, ways=4)
