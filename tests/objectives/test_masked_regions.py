"""Masked region modelling against loops in float64, and what it hides."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.parts import WIDTH, batch, regions
from vlp.config import build, lazy
from vlp.fusion.one_stream import OneStream
from vlp.model import VLModel
from vlp.objectives.itm import ITM
from vlp.objectives.masked_regions import MaskedRegions, class_loss, hide_regions, regression_loss
from vlp.objectives.negatives import RandomNegatives
from vlp.similarity.matching import MatchingHead
from vlp.task import Task
from vlp.text.bert import BertText
from vlp.types import Batch
from vlp.vision.regions import RegionEmbedding

SEEDS = st.integers(0, 10_000)


def task(**options: object) -> Task:
    torch.manual_seed(0)
    made: Task = build(
        lazy(Task)(
            model=lazy(VLModel)(
                vision=lazy(RegionEmbedding)(feature_width=12, width=WIDTH, dropout=0.0),
                text=lazy(BertText)(vocab_size=60, width=WIDTH, layers=0, heads=4, max_positions=16, dropout=0.0),
                fusion=lazy(OneStream)(width=WIDTH, layers=2, heads=4, dropout=0.0, post_norm=True),
                similarities={"itm": lazy(MatchingHead)(width=WIDTH)},
            ),
            objectives={
                "regions": lazy(MaskedRegions)(width=WIDTH, feature_width=12, classes=5, probability=0.4, **options),
                "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
            },
        )
    )
    return made


def region_batch() -> Batch:
    return replace(batch(), image=None, regions=regions(8, most=6, width=12, classes=5))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 7), st.sampled_from(["kl", "label"]))
def test_class_losses_are_those_of_the_paper(seed: int, rows: int, classes: int, target: str) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=g)
    shares = torch.randn(rows, classes, generator=g).mul(3).softmax(1)
    total = 0.0
    for z, p in zip(logits.double().tolist(), shares.double().tolist(), strict=True):
        log_q = [value - math.log(sum(math.exp(other) for other in z)) for value in z]
        best = max(range(classes), key=p.__getitem__)
        kl = sum(a * (math.log(a) - b) for a, b in zip(p, log_q, strict=True) if a)
        total += kl if target == "kl" else -log_q[best]
    assert abs(float(class_loss(logits, shares, target)) - total / rows) < 1e-4  # type: ignore[arg-type]


def test_a_certain_detector_makes_no_nan_and_a_perfect_model_no_loss() -> None:
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(class_loss(torch.tensor([[40.0, -40.0], [-40.0, 40.0]]), certain, "kl")) == 0.0
    assert float(class_loss(torch.zeros(0, 2), torch.zeros(0, 2), "kl")) == 0.0
    features = torch.randn(3, 4)
    assert float(regression_loss(features, features)) == 0.0
    assert abs(float(regression_loss(features + 2, features)) - 4.0) < 1e-5


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(1, 8))
def test_only_regions_that_are_there_are_hidden_and_one_at_least(seed: int, pictures: int, most: int) -> None:
    torch.manual_seed(seed)
    mask = torch.rand(pictures, most) < 0.6
    hidden = hide_regions(mask, 0.15)
    assert not (hidden & ~mask).any()
    assert torch.equal(hidden.any(1), mask.any(1))


def test_regions_are_hidden_with_the_asked_probability() -> None:
    torch.manual_seed(0)
    share = hide_regions(torch.ones(500, 100, dtype=torch.bool), 0.15).float().mean()
    assert abs(float(share) - 0.15) < 0.01


def test_the_loss_is_that_of_the_hidden_regions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, b = task(feature_weight=1.0, class_weight=2.0), region_batch()
    assert b.regions is not None
    hidden = torch.zeros_like(b.regions.mask)
    hidden[2, 1] = hidden[5, 0] = True
    monkeypatch.setattr("vlp.objectives.masked_regions.hide_regions", lambda mask, probability: hidden)
    objective = made.objectives["regions"]
    from vlp.view import View

    report = objective(View(made.model, b)).report

    def features_changed(at: tuple[int, int]) -> Tensor:
        assert b.regions is not None
        other = b.regions.features.clone()
        other[at] += 1.0
        changed = replace(b, regions=replace(b.regions, features=other))
        return objective(View(made.model, changed)).report["mrc"]

    torch.testing.assert_close(features_changed((2, 1)), report["mrc"])  # what is hidden cannot be seen
    assert not torch.isclose(features_changed((2, 0)), report["mrc"], rtol=1e-7)
    with torch.no_grad():
        seen = replace(b, regions=replace(b.regions, hidden=hidden))
        image = made.model.encode_image(seen)
        text = made.model.encode_text(b.text_ids, b.text_mask)
        tokens = made.model.fuse(text, made.model.prepare_image(image)).image
        assert tokens is not None
        rows = [tokens.tokens[2, 1], tokens.tokens[5, 0]]
        head, weight = objective.feature_head, made.model.vision.feature.weight  # type: ignore[union-attr]
        errors = [
            float((head(x)[None] @ weight + objective.feature_bias - b.regions.features[at]).square().mean())  # type: ignore[operator]
            for x, at in zip(rows, [(2, 1), (5, 0)], strict=True)
        ]
    assert abs(sum(errors) / 2 - float(report["mrfr"])) < 1e-5


@pytest.mark.parametrize("options", [{}, {"feature_weight": 0.0}, {"class_weight": 0.0, "target": "label"}])
def test_every_parameter_gets_a_gradient(options: dict[str, object]) -> None:
    made = task(**options)
    made(region_batch()).value.backward()
    names = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not names


def test_pictures_that_pairs_share_are_the_same_as_repeated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made, b = task(), region_batch()
    assert b.regions is not None
    half = replace(b.regions, **{n: getattr(b.regions, n)[::2] for n in ("features", "boxes", "class_probs", "mask")})
    rows = torch.arange(8) // 2
    whole = replace(half, **{n: getattr(half, n)[rows] for n in ("features", "boxes", "class_probs", "mask")})
    monkeypatch.setattr(
        "vlp.objectives.masked_regions.hide_regions", lambda mask, probability: mask & (torch.arange(mask.shape[1]) < 2)
    )
    from vlp.view import View

    objective = made.objectives["regions"]
    one = objective(View(made.model, replace(b, regions=whole))).value
    two = objective(View(made.model, replace(b, regions=half, image_row=rows))).value
    torch.testing.assert_close(one, two)


def test_no_loss_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="one of the two weights"):
        task(feature_weight=0.0, class_weight=0.0)


def test_a_picture_by_itself_is_told_from_its_regions_alone() -> None:
    found = []
    for first in (6, 20):
        made, b = task(alone=True), region_batch()
        b.text_ids = torch.where(b.word_ids >= 0, first + b.word_ids, b.text_ids)
        torch.manual_seed(1)
        found.append(made(b).report["alone_mrfr"])
    assert torch.equal(*found)
