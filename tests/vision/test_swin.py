"""The Swin parser against timm's own attention, and what hides in it."""

from typing import Any

import pytest
import torch

from tests.parts import batch
from vlp.objectives.masked_patches import most_attended
from vlp.vision.swin import SwinParser

OPTIONS = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}


def made(**more: Any) -> SwinParser:
    torch.manual_seed(0)
    options = OPTIONS | more
    return SwinParser(name="swin_tiny_patch4_window7_224", image_size=32, width=12, options=options).eval()


def test_attention_is_what_the_last_block_weighs_its_values_with() -> None:
    """With values that tell their place, and outputs left as they are, timm's attention gives its own weights."""
    parser, b = made(), batch()
    last = parser.swin.layers[-1].blocks[-1].attn
    cells = int(parser.swin.layers[-1].blocks[-1].input_resolution[0] ** 2)
    with torch.no_grad():
        features, found = parser.parsed(b)
        torch.testing.assert_close(features, parser.hidden_features(b))
        seen: list[torch.Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        parser.hidden_features(b)
        handle.remove()
        weights = []
        for place in range(cells):  # the value of one cell is 1, of the others 0
            values = torch.zeros(cells, 1)
            values[place] = 1.0
            q, k, _ = last.qkv(seen[0]).view(8, cells, 3, last.num_heads, -1).permute(2, 0, 3, 1, 4)
            v = values.expand(8, last.num_heads, cells, 1)
            bias = last._get_rel_pos_bias()
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            weights.append(out[..., 0].mean(1))
    torch.testing.assert_close(found, torch.stack(weights, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(2), torch.ones(8, cells))


def test_a_hidden_cell_shows_the_learned_vector() -> None:
    parser, b = made(), batch()
    plain = parser(b).tokens
    hidden = torch.zeros(plain.shape[:2], dtype=torch.bool)
    hidden[2, 5] = True
    shown = parser.hide(parser(b), hidden).tokens
    torch.testing.assert_close(shown[~hidden], plain[~hidden])
    torch.testing.assert_close(shown[2, 5], parser.hidden)


def test_several_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="one window"):
        made(window_size=2)


def test_a_cell_is_hidden_with_those_it_attends_to_most() -> None:
    attention = torch.tensor([[[0.9, 0.0, 0.1, 0.0], [0.3, 0.0, 0.2, 0.5], [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.1]]])
    for place, expected in ((0, {0, 2}), (1, {1, 3}), (2, {2, 3}), (3, {3, 2})):
        assert set(most_attended(attention, torch.tensor([place]), 1)[0].nonzero()[:, 0].tolist()) == expected
    assert set(most_attended(attention, torch.tensor([1]), 2)[0].nonzero()[:, 0].tolist()) == {0, 1, 3}
