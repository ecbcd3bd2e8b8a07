"""Adapters, n-grams, transformers and graphs over tokens, row by row, without padding."""

import torch

from tests.streams import present, stream
from vlp.reasoning.adapter import TokenAdapter, kept
from vlp.reasoning.ngrams import NGrams
from vlp.reasoning.region_graph import RegionGraph
from vlp.reasoning.transformer import TransformerReasoner
from vlp.types import Stream


def test_an_adapter_reads_the_last_level_and_makes_units() -> None:
    torch.manual_seed(0)
    some, adapter = stream(3, 5, 8, seed=1), TokenAdapter(width=4, embed_dim=6, hidden=7, unit=True).double()
    out = adapter(some)
    for i in range(3):
        wanted = adapter.layers(present(some, i)[:, 4:])
        torch.testing.assert_close(present(out, i), wanted / wanted.norm(dim=1, keepdim=True))
    assert (out.tokens[~out.mask] == 0).all()


def test_dropped_tokens_leave_their_share_and_the_first() -> None:
    torch.manual_seed(0)
    mask = torch.arange(50)[None] < torch.full((400, 1), 40)
    left = kept(mask, 0.2)
    assert left[:, 0].all()
    assert not (left & ~mask).any()
    assert abs(float(left[:, 1:40].float().mean()) - 0.8) < 0.01
    adapter = TokenAdapter(width=8, embed_dim=4, drop_tokens=0.5).double()
    some = stream(3, 5, 8, seed=1)
    assert torch.equal(adapter.eval()(some).mask, some.mask)


def test_ngrams_end_where_a_caption_ends() -> None:
    torch.manual_seed(0)
    some, grams = stream(3, 5, 4, seed=2), NGrams(width=4, channels=3).double()
    out = grams(some)
    for i in range(3):
        words = present(some, i)
        padded = torch.cat([words, torch.zeros(2, 4, dtype=torch.float64)])
        for place in range(len(words)):
            found = []
            for convolution in grams.convolutions:
                window = padded[place : place + convolution.kernel_size[0]]
                found.append(torch.einsum("oik,ki->o", convolution.weight, window) + convolution.bias)
            torch.testing.assert_close(out.tokens[i, place], torch.relu(torch.cat(found)))


def test_a_region_graph_is_the_papers() -> None:
    torch.manual_seed(0)
    some, graph = stream(3, 5, 4, seed=3), RegionGraph(width=4, layers=2).double()
    torch.testing.assert_close(graph(some).tokens[some.mask], some.tokens[some.mask])  # begins as the identity
    for layer in graph.layers:
        torch.nn.init.normal_(layer.gain)
    out = graph(some)
    for i in range(3):
        v = present(some, i)
        for layer in graph.layers:
            new = []
            for a in range(len(v)):
                read = sum(layer.theta(v[a]) @ layer.phi(v[b]) / len(v) * layer.value(v[b]) for b in range(len(v)))
                new.append(v[a] + layer.out(read) * layer.gain)
            v = torch.stack(new)
        torch.testing.assert_close(present(out, i), v)


def test_a_transformer_reads_each_row_by_itself() -> None:
    torch.manual_seed(0)
    some, layers = stream(3, 5, 8, seed=4), TransformerReasoner(width=8, layers=2, heads=2, dropout=0.0).double()
    out = layers(some)
    for i in range(3):
        alone = present(some, i)[None]
        wanted = layers(Stream(alone, torch.ones(1, alone.shape[1], dtype=torch.bool)))
        torch.testing.assert_close(present(out, i), wanted.tokens[0])
