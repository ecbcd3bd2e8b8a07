"""UNIMO's contrast against loops in float64, and what a rewritten caption is."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.test_graph_masking import caption
from vlp.objectives.cross_modal_contrast import rewritten, several_positives
from vlp.types import Graph


def captions(seed: int, count: int = 6) -> tuple[torch.Tensor, Graph]:
    graphs = [caption(seed * 100 + i) for i in range(count)]
    fields = {n: torch.cat([getattr(g, n) for g in graphs]) for n in ("kind", "node", "phrase", "region")}
    g = torch.Generator().manual_seed(seed)
    return torch.randint(10, 20, fields["kind"].shape, generator=g), Graph(**fields)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_one_node_becomes_another_word_of_its_kind_from_the_other_caption(seed: int) -> None:
    ids, graph = captions(seed)
    g = torch.Generator().manual_seed(seed)
    other = (torch.arange(6) + 1) % 6
    draws = (torch.rand(6, 14, generator=g) for _ in range(2))
    new, mask, found = rewritten(ids, torch.ones_like(ids, dtype=torch.bool), graph, other, *draws)
    assert found.any()
    for b in range(6):
        changed = ((new[b] != ids[b]) & mask[b]).nonzero()[:, 0].tolist()
        assert len(changed) == int(found[b])
        if changed:
            (i,) = changed
            node = (graph.node[b] == graph.node[b, i]).nonzero()[:, 0].tolist()
            assert (~mask[b]).nonzero()[:, 0].tolist() == [j for j in node if j != i]
            source = ids[other[b]][graph.kind[other[b]] == graph.kind[b, i]].tolist()
            assert int(new[b, i]) in source
        else:
            assert mask[b].all()


def test_a_caption_that_has_nothing_to_exchange_stays() -> None:
    ids, graph = captions(0, 2)
    graph.kind[1] = 0
    whole = torch.ones_like(ids, dtype=torch.bool)
    new, mask, found = rewritten(ids, whole, graph, torch.tensor([1, 0]), torch.rand(2, 14), torch.rand(2, 14))
    assert not found.any()
    assert mask.all()
    assert torch.equal(new, ids)


def test_the_contrast_is_that_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(3, 6, generator=g)
    positive = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 1]]).bool()
    allowed = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 1]]).bool()
    total = 0.0
    for b in range(3):
        exps = [math.exp(float(scores[b, k])) * bool(allowed[b, k]) for k in range(6)]
        total -= math.log(sum(e for k, e in enumerate(exps) if positive[b, k]) / sum(exps))
    assert abs(float(several_positives(scores, positive, allowed)) - total / 3) < 1e-5
