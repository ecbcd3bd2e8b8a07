"""Intervals against the slow bootstrap of their definition, and against what is known of the binomial."""

import pytest
import torch

from vlp.retrieval.bootstrap import differences, intervals
from vlp.retrieval.ranks import SIDES, rank


def noisy(seed: int, noise: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(60, 8, generator=g)
    text = image.repeat_interleave(2, 0) + noise * torch.randn(120, 8, generator=g)
    return torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T


OWNERS = torch.arange(120) // 2


def test_intervals_are_quantiles_over_pictures_drawn_with_their_captions() -> None:
    outcome = rank(noisy(0, 1.0), OWNERS)
    got = intervals(outcome, OWNERS, resamples=250, seed=3)
    g = torch.Generator().manual_seed(3)
    recalls: dict[str, list[float]] = {side: [] for side in SIDES}
    for rows in (100, 100, 50):
        for pictures in torch.randint(60, (rows, 60), generator=g).tolist():
            captions = [c for p in pictures for c in (2 * p, 2 * p + 1)]
            recalls["image to text"].append(100 * float(outcome.image_to_text.hit(1)[pictures].mean()))
            recalls["text to image"].append(100 * float(outcome.text_to_image.hit(1)[captions].mean()))
    for side in SIDES:
        values = torch.tensor(recalls[side], dtype=torch.float64)
        assert got[side]["R@1"] == pytest.approx([float(values.quantile(q)) for q in (0.025, 0.975)])


def test_a_picture_with_more_captions_brings_them_all() -> None:
    """Of three pictures one has eight captions, all found; without it nothing is found."""
    owners = torch.tensor([0] * 8 + [1, 2])
    scores = torch.zeros(3, 10)
    scores[0, :8] = 1.0
    scores[2, 8] = scores[1, 9] = 1.0
    low, high = intervals(rank(scores, owners), owners, resamples=400)["text to image"]["R@1"]
    assert low == 0.0
    assert high == 100.0  # three times the one picture


def test_the_width_of_an_interval_is_that_of_a_share() -> None:
    """With one caption a picture, R@1 is a share p of 400 queries: about 1.96 sqrt(p (1 - p) / 400) to either side."""
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(400, 400, generator=g)
    scores[torch.arange(400), torch.arange(400)] += (torch.rand(400, generator=g) < 0.5).float()
    outcome = rank(scores, torch.arange(400))
    p = float(outcome.text_to_image.hit(1).mean())
    low, high = intervals(outcome, torch.arange(400), resamples=2000)["text to image"]["R@1"]
    assert (high - low) / 2 == pytest.approx(196 * (p * (1 - p) / 400) ** 0.5, rel=0.1)


def test_a_gain_is_paired() -> None:
    one, two = rank(noisy(0, 1.0), OWNERS), rank(noisy(0, 0.9), OWNERS)
    same = differences(one, one, OWNERS, 200)
    assert same["all"]["rsum"] == [0.0, 0.0]
    gain, alone = differences(one, two, OWNERS, 400), intervals(two, OWNERS, 400)
    assert gain["all"]["rsum"][1] - gain["all"]["rsum"][0] < alone["all"]["rsum"][1] - alone["all"]["rsum"][0]
    assert gain["all"]["rsum"][0] > 0
