"""Co-attention against a slow reading of METER's layer in float64, row by row and head by head."""

import math

import pytest
import torch
from torch import Tensor

from vlp.fusion.co_attention import CoAttention
from vlp.types import Stream


def streams(seed: int = 0) -> tuple[Stream, Stream]:
    g = torch.Generator().manual_seed(seed)
    text, image = torch.randn(3, 5, 12, generator=g).double(), torch.randn(3, 6, 10, generator=g).double()
    words = torch.arange(5)[None] < torch.tensor([5, 2, 4])[:, None]
    cells = torch.arange(6)[None] < torch.tensor([3, 6, 1])[:, None]
    return Stream(text, words), Stream(image, cells)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    size, out = q.shape[1] // heads, []
    for h in range(heads):
        a, b, c = (x[:, h * size : (h + 1) * size] for x in (q, k, v))
        out.append(torch.stack([((a[i] @ b.T) / math.sqrt(size)).softmax(0) @ c for i in range(len(a))]))
    return torch.cat(out, 1)


def slow_layer(layer: torch.nn.Module, own: Tensor, other: Tensor, heads: int) -> Tensor:
    """Self-attention, then cross-attention to the other side, then feed-forward, each with a norm behind the sum."""
    q, k, v = layer.attention.qkv(own).chunk(3, 1)  # type: ignore[operator,union-attr]
    own = layer.attention_norm(own + layer.attention.out(attention(q, k, v, heads)))  # type: ignore[operator,union-attr]
    k, v = layer.cross.kv(other).chunk(2, 1)  # type: ignore[operator,union-attr]
    read = attention(layer.cross.q(own), k, v, heads)  # type: ignore[operator,union-attr]
    own = layer.cross_norm(own + layer.cross.out(read))  # type: ignore[operator,union-attr]
    up = layer.feed_forward.up(own)  # type: ignore[operator,union-attr]
    return layer.feed_forward_norm(own + layer.feed_forward.down(torch.nn.functional.gelu(up)))  # type: ignore[operator,union-attr,no-any-return]


@pytest.mark.parametrize("mean_first", [False, True])
@pytest.mark.parametrize("summary", ["concat", "product"])
def test_layers_are_those_of_the_paper(summary: str, mean_first: bool) -> None:
    torch.manual_seed(0)
    fusion = CoAttention(
        text_width=12, image_width=10, width=16, layers=2, heads=4, summary=summary, mean_first=mean_first  # type: ignore[arg-type]
    ).double().eval()  # fmt: skip
    text, image = streams()
    fused = fusion(text, fusion.prepare(image))
    for row in range(3):
        t = fusion.text_in(text.tokens[row][text.mask[row]])
        i = fusion.image_in(image.tokens[row][image.mask[row]])
        i = torch.cat([i.mean(0, keepdim=True), i]) if mean_first else i
        for one, two in zip(fusion.text_layers, fusion.image_layers, strict=True):
            t, i = slow_layer(one, t, i, 4), slow_layer(two, i, t, 4)
        pooled = torch.tanh(fusion.text_pooler(t[0])), torch.tanh(fusion.image_pooler(i[0]))
        wanted = torch.cat(pooled) if summary == "concat" else pooled[0] * pooled[1]
        torch.testing.assert_close(fused.text.tokens[row][text.mask[row]], t)
        torch.testing.assert_close(fused.image.tokens[row][image.mask[row]], i[int(mean_first) :])
        torch.testing.assert_close(fused.summary[row], wanted)


def test_one_image_under_many_captions_is_read_the_same() -> None:
    torch.manual_seed(0)
    fusion = CoAttention(text_width=12, image_width=10, width=16, layers=2, heads=4).double().eval()
    text, image = streams()
    alone = fusion.prepare(Stream(image.tokens[1:2], image.mask[1:2]))
    many = fusion.summarize(text, fusion.prepare(image), torch.ones(3, dtype=torch.long))
    torch.testing.assert_close(fusion.summarize(text, alone), many)
