"""Words written in a picture, picture by picture and word by word, and pictures without any."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.streams import present, stream
from vlp.pooling.scene_text import SceneText
from vlp.pooling.tokens import MeanPool
from vlp.text.recurrent import RecurrentText
from vlp.types import Stream, Tags


def made() -> tuple[SceneText, Stream]:
    """A head away from its beginning; five pictures with up to four words, the third and the last with none."""
    torch.manual_seed(0)
    head = SceneText(image=MeanPool(), width=6, embed_dim=8, layers=2).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    image, words = stream(5, 7, 8, seed=1), stream(5, 4, 6, seed=2)
    words.mask[[2, 4]] = False
    return head, Stream(image.tokens, image.mask, words=words)


def told(head: SceneText, words: Tensor) -> Tensor:
    """o of the T words (T, D) of one picture, as the paper writes it."""
    nodes = []
    for word in words:
        normed = (word - word.mean()) / (word.var(unbiased=False) + 1e-5).sqrt() * head.norm.weight + head.norm.bias
        raw = head.linear.weight @ normed + head.linear.bias
        node = torch.where(raw > 0, raw, 0.01 * raw)
        nodes.append(node / node.norm())
    for layer in head.graph.layers:
        reads = []
        for a in nodes:
            read = sum(layer.theta(a) @ layer.phi(b) / len(nodes) * layer.value(b) for b in nodes)
            reads.append(a + layer.out(read) * layer.gain)
        nodes = reads
    return sum(node / node.norm() for node in nodes) / len(nodes)


def test_words_scale_the_picture_as_in_the_paper() -> None:
    head, some = made()
    found = head(some)
    assert some.words is not None
    for i in (0, 1, 3):
        v = present(some, i).mean(0)
        torch.testing.assert_close(found[i], v + v * told(head, present(some.words, i)))


def test_a_picture_without_words_is_left_as_it_is() -> None:
    head, some = made()
    alone, found = head.image(some), head(some)
    assert torch.equal(found[[2, 4]], alone[[2, 4]])
    assert not torch.isclose(found[[0, 1, 3]], alone[[0, 1, 3]]).all(1).any()
    nobody = Stream(torch.randn(5, 0, 6).double(), torch.ones(5, 0, dtype=torch.bool))
    assert torch.equal(head(Stream(some.tokens, some.mask, words=nobody)), alone)


def test_what_stands_behind_the_words_changes_nothing() -> None:
    head, some = made()
    assert some.words is not None
    other = torch.where(some.words.mask[..., None], some.words.tokens, torch.randn(5, 4, 6).double())
    longer = Stream(F.pad(other, (0, 0, 0, 2), value=9.0), F.pad(some.words.mask, (0, 2)))
    torch.testing.assert_close(head(Stream(some.tokens, some.mask, words=longer)), head(some), rtol=1e-12, atol=1e-12)


def test_gradients_reach_both_sides_and_no_row_without_words() -> None:
    head, some = made()
    assert some.words is not None
    some.tokens.requires_grad_()
    some.words.tokens.requires_grad_()
    head(some).square().sum().backward()
    assert torch.equal(some.tokens.grad.abs().sum(2) > 0, some.mask)  # type: ignore[union-attr]
    assert torch.equal(some.words.tokens.grad.abs().sum(2) > 0, some.words.mask)  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    head.zero_grad()
    some.words.mask[:] = False
    head(some).square().sum().backward()  # a batch in which nothing is written: zeros, for which DDP need not wait
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and not p.grad.any() for p in head.parameters())


def test_a_stream_without_words_beside_it_is_named() -> None:
    head, some = made()
    with pytest.raises(ValueError, match="tags='beside'"):
        head(Stream(some.tokens, some.mask))


def test_tags_are_embedded_as_the_captions_words_are() -> None:
    text = RecurrentText(vocab_size=20, word_width=6, width=8)
    tags = Tags(torch.randint(20, (3, 4)), torch.arange(4) < torch.tensor([[4], [0], [2]]))
    words = text.embed_tags(tags)
    assert torch.equal(words.tokens, text.words.weight[tags.ids])
    assert torch.equal(words.mask, tags.mask)
