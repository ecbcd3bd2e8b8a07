"""The measures of `benchmarks/learned*.py` on models made by hand, whose answers are known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.learned import outranked, tagged
from benchmarks.learned_alignment import alignment, closest, covered, likest, nearest, patches, pointed, told_boxes
from tests.systems import make
from vlp.types import Batch, Fused, Graph, Regions, Stream, Tags
from vlp.view import View

CORNERS = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0]])
PLACES = [0, 1, 3]  # the cells of a 2 x 2 grid that they are


def scene() -> Batch:
    """Two pictures of three things, each caption of which names two of them in an adjective and a noun."""
    ids = torch.tensor([[1, 10, 20, 11, 21, 2], [1, 11, 22, 10, 21, 2]])
    region = torch.tensor([[-1, 0, 0, 2, 2, -1], [-1, 1, 1, 0, 0, -1]])
    graph = Graph(
        kind=torch.tensor([[0, 2, 1, 2, 1, 0]] * 2),
        node=torch.tensor([[-1, 0, 1, 2, 3, -1]] * 2),
        phrase=torch.tensor([[-1, 0, 0, 1, 1, -1]] * 2),
        region=region,
    )
    regions = Regions(torch.zeros(2, 3, 4), CORNERS.expand(2, 3, 4), torch.zeros(2, 3, 2), torch.ones(2, 3).bool())
    mask, number = torch.ones(2, 6, dtype=torch.bool), torch.arange(2)
    return Batch(ids, mask, torch.zeros(2, 6).long(), number, number, regions=regions, graph=graph)


@pytest.mark.parametrize(("shift", "right"), [(0, 4.0), (1, 0.0)])
def test_a_phrase_is_likest_the_cells_of_its_thing(shift: int, right: float) -> None:
    """Each cell has a direction of its own; words look the way of a cell of their thing, or of the next thing."""
    b = scene()
    assert b.graph is not None
    assert b.regions is not None
    cells = torch.eye(4).expand(2, 4, 4)
    place = torch.tensor(PLACES)[(b.graph.region.clamp(min=0) + shift) % 3]
    words = torch.eye(4)[place] * (b.graph.region >= 0)[..., None]
    fused = Fused(Stream(cells, torch.ones(2, 4).bool()), Stream(words, b.text_mask), words[:, 0])
    model = SimpleNamespace(vision=SimpleNamespace(grid=2))
    view: Any = SimpleNamespace(batch=b, model=model, image=None, fused_with=lambda image: fused)
    chosen = likest(view, SimpleNamespace(points=2))  # type: ignore[arg-type]
    assert pointed(chosen, b.graph, b.regions, 0, by_region=True) == (right, 4.0)


@pytest.mark.parametrize("leading", [0, 1])
@pytest.mark.parametrize(("shift", "right"), [(0, 4.0), (1, 0.0)])
def test_a_word_is_nearest_to_a_cell_with_and_without_a_class_token(leading: int, shift: int, right: float) -> None:
    """The class token, where there is one, is like every word, and is not taken for a cell."""
    b = scene()
    assert b.graph is not None
    assert b.regions is not None
    cells = torch.cat([torch.ones(leading, 4) * 2, torch.eye(4)]).expand(2, -1, 4)
    place = torch.tensor(PLACES)[(b.graph.region.clamp(min=0) + shift) % 3]
    words = torch.eye(4)[place] * (b.graph.region >= 0)[..., None]
    late = SimpleNamespace(text_tokens=lambda stream: stream, image_tokens=lambda stream: stream)
    model = SimpleNamespace(similarities={"late": late})
    image, text = Stream(cells, torch.ones(2, 4 + leading).bool()), Stream(words, b.text_mask)
    view: Any = SimpleNamespace(model=model, image=image, text=text)
    assert pointed(nearest(view), b.graph, b.regions, patches(view), by_region=False) == (right, 4.0)


def test_boxes_are_told_of_the_phrase_alone_in_its_own_picture() -> None:
    b = scene()
    assert b.graph is not None
    assert b.regions is not None
    phrases = {(0, 10, 20): 0, (0, 11, 21): 2, (1, 11, 22): 1, (1, 10, 21): 0}

    def summarize(text: Stream, prepared: Any, rows: Tensor) -> Tensor:
        """The odds of the thing's box, which is found only where the words shown are those of one phrase."""
        told = []
        for ids, mask, row in zip(text.tokens[..., 0].long(), text.mask, rows.tolist(), strict=True):
            first, *words = ids[mask].tolist()
            assert first == 1
            x1, y1, x2, y2 = CORNERS[phrases[(row, *words)]].tolist()
            told.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        return torch.logit(torch.tensor(told))

    model = SimpleNamespace(encode_text=lambda ids, mask: Stream(ids[..., None].float(), mask), summarize=summarize)
    view: Any = SimpleNamespace(batch=b, model=model, prepared=None)
    objective: Any = SimpleNamespace(box=lambda summary: summary)
    found, wanted = told_boxes(view, objective)
    torch.testing.assert_close(found, wanted)
    assert covered(found, wanted) == (4.0, 4.0)


@pytest.mark.parametrize(("sign", "right"), [(1, 4.0), (-1, 0.0), (0, 0.0)])
def test_a_caption_outranks_another_and_its_own_rewritten(sign: int, right: float) -> None:
    b = scene()

    def match(text: Stream, prepared: Tensor) -> Tensor:
        return sign * ((text.tokens[..., 0] == prepared) & text.mask).sum(1).float()

    def encode(ids: Tensor, mask: Tensor) -> Stream:
        return Stream(ids[..., None].float(), mask)

    model = SimpleNamespace(match=match, encode_text=encode)
    text = encode(b.text_ids, b.text_mask)
    view: Any = SimpleNamespace(batch=b, model=model, text=text, prepared=b.text_ids)
    assert outranked(view) == (right, 4.0)


@pytest.mark.parametrize("ways", [2, 3])
def test_kinds_of_pairs_are_told_by_tags_and_captions(ways: int) -> None:
    """One model tells whether tags and caption are the picture's, one calls everything whole."""
    b = scene()
    b.tags = Tags(torch.tensor([[30, 31], [32, 30]]), torch.ones(2, 2, dtype=torch.bool))
    own_tags = b.tags.ids

    def summarize(text: Stream, prepared: Tensor, rows: Tensor) -> Tensor:
        foreign_tags = (prepared != own_tags).any(1)
        foreign_words = (text.tokens[..., 0] != b.text_ids).any(1)
        return torch.where(foreign_words, 2, foreign_tags.long())

    model = SimpleNamespace(
        with_tags=lambda seen, tags: tags.ids, prepare_image=lambda image: image, summarize=summarize
    )
    text = Stream(b.text_ids[..., None].float(), b.text_mask)
    view: Any = SimpleNamespace(batch=b, model=model, text=text, seen=None)
    knowing: Any = SimpleNamespace(ways=ways, classifier=lambda label: torch.eye(3)[label])
    naive: Any = SimpleNamespace(ways=ways, classifier=lambda label: torch.eye(3)[torch.zeros_like(label)])
    assert tagged(view, knowing) == (2.0 * ways, 2.0 * ways)
    assert tagged(view, naive) == (2.0, 2.0 * ways)
    b.tags = Tags(torch.tensor([[30, 31], [31, 30]]), b.tags.mask)  # the same tags: nothing is asked of the second kind
    own_tags = b.tags.ids
    assert tagged(view, naive) == (2.0, 2.0 * ways - 2)


def test_a_task_with_two_alignments_is_asked_by_its_contrast_and_shows_its_transport() -> None:
    """ViLT's small form; without the contrast its transport is what is asked."""
    torch.manual_seed(0)
    task, b = make("vilt")
    b.regions = Regions(torch.zeros(8, 3, 4), CORNERS.expand(8, 3, 4), torch.zeros(8, 3, 2), torch.ones(8, 3).bool())
    region = torch.arange(b.text_ids.numel()).view_as(b.text_ids) % 3
    kind = (b.word_ids >= 0).long()  # every word is an object's
    b.graph = Graph(kind=kind, node=region, phrase=region, region=region)
    task.eval()
    view = View(task.model, b, whole_rows=True)
    with torch.no_grad():
        both, contrast = alignment(view, task), task.objectives.pop("wpc")
        alone = alignment(view, task)
        found = pointed(closest(*contrast.tokens(view)), b.graph, b.regions, 9, by_region=False)  # type: ignore[operator]
    assert both == {"alignment": found, "transport": alone["alignment"]}
    assert alone.keys() == {"alignment"}
    assert 0 < found[0] < found[1] == float(kind.sum())
    assert found != alone["alignment"]
