"""Tokens left out in training: as many as asked, the first one never, each other one as likely as the next."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.reasoning.token_drop import TokenDrop
from vlp.types import Stream


def numbered(rows: int, count: int, present: int) -> Stream:
    """Tokens that hold their own place."""
    tokens = torch.arange(float(count))[None, :, None].expand(rows, -1, 2)
    return Stream(tokens, (torch.arange(count) < present).expand(rows, -1))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_what_is_kept_is_a_subset_with_the_first(rows: int, count: int, keep: int, seed: int) -> None:
    torch.manual_seed(seed)
    present = 1 + seed % count
    out = TokenDrop(keep=keep).train()(numbered(rows, count, present))
    for tokens, mask in zip(out.tokens[..., 0], out.mask, strict=True):
        places = tokens[mask].tolist()
        assert 0.0 in places
        assert len(set(places)) == len(places)
        assert max(places) < present
        assert len(places) == min(present, keep + 1)


def test_every_other_token_is_as_likely() -> None:
    torch.manual_seed(0)
    out = TokenDrop(keep=3).train()(numbered(8000, 9, 9))
    share = torch.bincount(out.tokens[..., 0].flatten().long(), minlength=9) / 8000
    assert share[0] == 1
    assert ((share[1:] - 3 / 8).abs() < 5 * (3 / 8 * 5 / 8 / 8000) ** 0.5).all()


def test_evaluation_sees_every_token() -> None:
    stream = numbered(2, 9, 7)
    assert TokenDrop(keep=3).eval()(stream) is stream
