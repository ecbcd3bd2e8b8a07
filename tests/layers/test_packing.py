"""Packing: what goes in comes out, wherever the holes are."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.layers.attention import SelfAttention
from vlp.layers.packing import Packing


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 9999))
def test_pack_restore_and_unpack_are_inverses(rows: int, length: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, length, generator=g) < 0.6
    mask[:, 0] = True
    tokens = torch.randn(rows, length, 3, generator=g)
    packing = Packing.of(mask)
    packed = packing.pack(tokens)
    assert torch.equal(packed, tokens[mask])
    assert torch.equal(packing.restore(packed, length), tokens * mask[..., None])
    rectangle = packing.unpack(packed)
    assert rectangle.shape[1] == int(mask.sum(1).max())
    assert torch.equal(packing.repack(rectangle), packed)
    for i in range(rows):
        assert torch.equal(rectangle[i, : int(mask[i].sum())], tokens[i][mask[i]])


def test_attention_equals_torchs_multihead_on_each_row() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(width=12, heads=3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    mask = torch.rand(4, 6) < 0.7
    mask[:, 2] = True
    tokens, rows = torch.randn(4, 6, 12), Packing.of(mask)
    expected = theirs(tokens, tokens, tokens, key_padding_mask=~mask)[0]
    torch.testing.assert_close(ours(rows.pack(tokens), rows), expected[mask], rtol=1e-4, atol=1e-5)
