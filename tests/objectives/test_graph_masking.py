"""ERNIE-ViL's masking against a reading of its rules piece by piece."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.objectives.graph_masking import GraphMasking, drawn_nodes, graph_positions
from vlp.types import Graph

NONE, OBJECT, ATTRIBUTE, RELATION = range(4)


def caption(seed: int, length: int = 14) -> Graph:
    """Phrases of an attribute or none and an object of one or two pieces, with relations between some of them."""
    g = torch.Generator().manual_seed(seed)
    rows: list[tuple[int, int, int]] = [(NONE, -1, -1)]
    node, phrase = 0, 0
    while len(rows) < length:
        for kind in (ATTRIBUTE, OBJECT, RELATION):
            pieces = int(torch.randint(0 if kind != OBJECT else 1, 3, (1,), generator=g))
            rows += [(kind, node, -1 if kind == RELATION else phrase)] * pieces
            node += 1
        phrase += 1
    kind_, node_, phrase_ = torch.tensor(rows[:length]).T
    return Graph(kind_[None], node_[None], phrase_[None], phrase_[None])


def allowed(graph: Graph, drawn: list[bool], i: int) -> bool:
    """Whether piece i is masked when these pieces are drawn."""
    kind, phrase = graph.kind[0].tolist(), graph.phrase[0].tolist()
    masked_objects = {j for j, k in enumerate(kind) if k == OBJECT and drawn[j]}
    if not drawn[i]:
        return False
    if kind[i] == ATTRIBUTE:
        return not any(phrase[j] == phrase[i] for j in masked_objects)
    if kind[i] == RELATION:
        left = max((j for j, k in enumerate(kind[:i]) if k == OBJECT), default=None)
        right = min((j for j, k in enumerate(kind) if k == OBJECT and j > i), default=None)
        return left not in masked_objects and right not in masked_objects
    return kind[i] == OBJECT


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 0.9))
def test_what_is_to_be_told_from_stays(seed: int, probability: float) -> None:
    torch.manual_seed(seed)
    graph = caption(seed)
    drawn = drawn_nodes(graph.node, probability)
    found = graph_positions(graph, drawn)[0].tolist()
    assert found == [allowed(graph, drawn[0].tolist(), i) for i in range(len(found))]


def test_nodes_are_drawn_whole_and_with_their_share() -> None:
    torch.manual_seed(0)
    node = torch.tensor([[-1, 7, 7, -1, 2, 5, 5, 5, 7]]).expand(3000, -1)
    drawn = drawn_nodes(node, GraphMasking().probability)
    assert not drawn[:, [0, 3]].any()
    for pieces in ([1, 2, 8], [4], [5, 6, 7]):
        assert (drawn[:, pieces] == drawn[:, pieces[:1]]).all()
        assert abs(float(drawn[:, pieces[0]].float().mean()) - 0.3) < 0.03
