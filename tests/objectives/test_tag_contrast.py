"""What is exchanged in Oscar's and VinVL's contrast, and how often."""

import pytest
import torch

from vlp.objectives.tag_contrast import TagContrast, corrupted, with_tags_of
from vlp.types import Batch, Tags


def test_half_is_kept_and_the_rest_is_shared_as_in_the_papers() -> None:
    draws = (torch.arange(10_000) + 0.5) / 10_000
    assert corrupted(draws, 2, 0.25).bincount().tolist() == [5000, 5000]  # Oscar: 50 % wrong tags
    assert corrupted(draws, 3, 0.25).bincount().tolist() == [5000, 2500, 2500]  # VinVL: 25 % tags, 25 % captions


def test_pairs_of_one_picture_are_told_apart_by_their_tags_alone() -> None:
    ids = torch.arange(6).view(3, 2)
    text = torch.zeros(4, 2, dtype=torch.long)
    batch = Batch(
        text_ids=text, text_mask=text == 0, word_ids=text, image_id=torch.tensor([0, 0, 1, 2]),
        caption_id=torch.arange(4), image=torch.arange(3.0)[:, None], tags=Tags(ids, ids >= 0),
        image_row=torch.tensor([0, 0, 1, 2]),
    )  # fmt: skip
    changed = with_tags_of(batch, torch.tensor([0, 3, 2, 1]))
    assert changed.image_row is None
    assert changed.image is not None
    assert changed.tags is not None
    assert changed.image[:, 0].tolist() == [0.0, 0.0, 1.0, 2.0]
    assert changed.tags.ids[:, 0].tolist() == [0, 4, 2, 0]


def test_other_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="ways 4"):
        TagContrast(width=8, ways=4)
