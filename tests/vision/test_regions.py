"""Regions as tokens: the numbers of a box, what is summed, and what padding and hiding do."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import batch, regions
from vlp.vision.regions import RegionEmbedding, box_numbers


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.sampled_from([4, 5, 6, 7]))
def test_numbers_of_a_box(box: list[float], form: int) -> None:
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    more = {4: [], 5: [width * height], 6: [width, height], 7: [width, height, width * height]}[form]
    got = box_numbers(torch.tensor(box, dtype=torch.float64), form)
    torch.testing.assert_close(got, torch.tensor([*box, *more], dtype=torch.float64))


def test_a_token_is_the_normed_sum_of_normed_feature_and_box() -> None:
    torch.manual_seed(0)
    part = RegionEmbedding(feature_width=12, width=8, box_form=5, dropout=0.0).double()
    b = replace(batch(), image=None, regions=regions(8, most=4, width=12, classes=3))
    assert b.regions is not None
    b.regions.features, b.regions.boxes = b.regions.features.double(), b.regions.boxes.double()
    got = part(b)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-12).sqrt()

    x1, y1, x2, y2 = b.regions.boxes[3, 1].tolist()
    box = torch.tensor([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)], dtype=torch.float64)
    feature = norm(part.feature.weight @ b.regions.features[3, 1] + part.feature.bias)
    expected = norm(feature + norm(part.box.weight @ box + part.box.bias))
    torch.testing.assert_close(got.tokens[3, 1], expected)
    assert torch.equal(got.mask, b.regions.mask)


def test_a_hidden_region_keeps_its_box_and_loses_its_feature() -> None:
    torch.manual_seed(0)
    part = RegionEmbedding(feature_width=12, width=8, dropout=0.0)
    torch.nn.init.normal_(part.hidden)
    one = regions(2, most=4, width=12, classes=3)
    one.mask[:] = True
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    hidden[0, 1] = hidden[1, 1] = True
    shown = replace(one, hidden=hidden)
    other = replace(shown, features=torch.where(hidden[..., None], torch.randn(2, 4, 12), one.features))
    b = batch(size=2)
    assert torch.equal(part(replace(b, regions=shown)).tokens, part(replace(b, regions=other)).tokens)
    tokens = part(replace(b, regions=shown)).tokens
    assert not torch.equal(tokens[0, 1], tokens[1, 1])  # their boxes differ
    assert torch.equal(tokens[~hidden], part(replace(b, regions=one)).tokens[~hidden])


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="box_form 3"):
        RegionEmbedding(box_form=3)
    part = RegionEmbedding(feature_width=5, width=8)
    with pytest.raises(ValueError, match="data.use_regions=true"):
        part(batch())
    with pytest.raises(ValueError, match="12 wide, the model takes 5"):
        part(replace(batch(), regions=regions(8, 4, 12, 3)))
