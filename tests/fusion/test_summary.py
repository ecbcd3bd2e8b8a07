"""A pair's summary against a loop over its words, and the shortcut that reads only them against the whole rows."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import batch
from vlp.fusion.cross import CrossFusion
from vlp.fusion.one_stream import OneStream
from vlp.fusion.summary import places, summarized
from vlp.types import Stream


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.sampled_from(["cls", "mean"]), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_a_summary_is_the_first_token_or_the_mean_of_those_present(
    lengths: list[int], summary: Literal["cls", "mean"], seed: int
) -> None:
    tokens = torch.randn(len(lengths), 7, 3, generator=torch.Generator().manual_seed(seed)).double()
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    read = places(mask, summary)
    got = summarized(tokens[read], read)
    for row, length in enumerate(lengths):
        words = [tokens[row, i] for i in range(length if summary == "mean" else 1)]
        torch.testing.assert_close(got[row], sum(words) / len(words), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("summary", ["cls", "mean"])
@pytest.mark.parametrize("fusion", [CrossFusion, OneStream])
def test_the_shortcut_equals_the_summary_of_whole_rows(
    fusion: type[CrossFusion] | type[OneStream], summary: Literal["cls", "mean"]
) -> None:
    torch.manual_seed(0)
    size = {"image_width": 16} if fusion is CrossFusion else {}
    part = fusion(width=16, layers=2, heads=2, summary=summary, **size).double().eval()  # type: ignore[arg-type]
    mask = batch().text_mask
    words = torch.randn(*mask.shape, 16).double()
    image = Stream(torch.randn(len(mask), 5, 16).double(), torch.ones(len(mask), 5, dtype=torch.bool))
    prepared = part.prepare(image)
    whole = part(Stream(words, mask), prepared)
    torch.testing.assert_close(part.summarize(Stream(words, mask), prepared), whole.summary, rtol=1e-9, atol=1e-9)
    expected = whole.text.tokens[:, 0]
    if summary == "mean":
        expected = torch.stack([row[keep].mean(0) for row, keep in zip(whole.text.tokens, mask, strict=True)])
    if isinstance(part, OneStream):
        expected = torch.tanh(part.pooler(expected))
    torch.testing.assert_close(whole.summary, expected, rtol=1e-9, atol=1e-9)
