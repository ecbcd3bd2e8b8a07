"""ROSITA's masking: overlaps against counting, and what is masked along with an anchor against its rules."""

import torch

from tests.objectives.test_graph_masking import ATTRIBUTE, OBJECT, RELATION, caption
from tests.parts import batch, regions
from vlp.objectives.graph_masking import drawn_nodes
from vlp.objectives.knowledge_masking import KnowledgeMasking, linked_words, overlaps
from vlp.types import Batch, Graph


def test_overlap_is_intersection_over_union() -> None:
    g = torch.Generator().manual_seed(0)
    low = torch.randint(0, 12, (4, 2), generator=g)
    boxes = torch.cat([low, low + torch.randint(1, 8, (4, 2), generator=g)], 1)
    found = overlaps(boxes.float() / 20)
    for i, one in enumerate(boxes.tolist()):
        for j, two in enumerate(boxes.tolist()):
            cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (one, two)]
            assert abs(float(found[i, j]) - len(cells[0] & cells[1]) / len(cells[0] | cells[1])) < 1e-5


def test_an_anchor_takes_its_attributes_and_relations_along() -> None:
    for seed in range(40):
        graph = caption(seed)
        torch.manual_seed(seed)
        anchors = drawn_nodes(graph.node, 0.5) & (graph.kind == OBJECT)
        found = linked_words(graph, anchors)[0].tolist()
        kind, phrase = graph.kind[0].tolist(), graph.phrase[0].tolist()
        taken = {i for i, there in enumerate(anchors[0].tolist()) if there}
        for i, k in enumerate(kind):
            left = max((j for j, other in enumerate(kind[:i]) if other == OBJECT), default=None)
            right = min((j for j, other in enumerate(kind) if other == OBJECT and j > i), default=None)
            of_phrase = k == ATTRIBUTE and any(phrase[j] == phrase[i] for j in taken)
            assert found[i] == (of_phrase or (k == RELATION and (left in taken or right in taken)))


def with_knowledge() -> Batch:
    """Two captions of each of four pictures; the first phrase of the first caption names region 1."""
    b = batch(length=14)
    graphs = [caption(seed) for seed in range(8)]
    fields = {n: torch.cat([getattr(g, n) for g in graphs]) for n in ("kind", "node", "phrase", "region")}
    b.graph = Graph(**fields)
    b.graph.region.fill_(-1)
    b.graph.region[0, 2] = 1
    b.regions, b.image_row = regions(4, 10, 8, 5), torch.arange(8) // 2
    return b


def test_regions_that_overlap_an_anchor_go_with_it_and_padding_never() -> None:
    b = with_knowledge()
    assert b.regions is not None
    masking = KnowledgeMasking(regions=0.1, named=0.1, neighbours=1.0, overlap=0.3)
    near = overlaps(b.regions.boxes) > 0.3
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = masking.hidden(b)
        assert not (hidden & ~b.regions.mask).any()
        assert hidden.any(1).all()
        for p in range(4):  # every hidden region is an anchor, whose neighbours are hidden, or next to such a one
            for r in hidden[p].nonzero()[:, 0].tolist():
                whole = [bool((hidden[p] | ~near[p, a] | ~b.regions.mask[p]).all()) for a in near[p, r].nonzero()[:, 0]]
                assert any(whole)


def test_what_a_phrase_names_is_hidden_more_often() -> None:
    b = with_knowledge()
    torch.manual_seed(0)
    masking = KnowledgeMasking(regions=0.02, named=0.9, neighbours=0.0)
    shares = torch.stack([masking.hidden(b) for _ in range(200)]).float().mean(0)
    assert float(shares[0, 1]) > 0.8
    assert float(shares[0, 2]) < 0.4


def test_words_are_masked_with_their_shares() -> None:
    b = with_knowledge()
    torch.manual_seed(0)
    assert b.graph is not None
    shares = torch.stack([KnowledgeMasking(objects=0.5, links=0.0).words(b) for _ in range(400)]).float().mean(0)
    objects = b.graph.kind == OBJECT
    assert float(shares[~objects].max()) == 0.0
    assert float((shares[objects] - 0.5).abs().max()) < 0.12
