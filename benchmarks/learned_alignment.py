"""Does an object word find its thing in the picture? For the systems whose objectives claim it, each asked its own way.

UNITER, ROSITA          the image token that takes the most of the word's transport
FILIP, ViLT             the image token of the largest cosine with the word; beside it ViLT's transport, as "transport"
KD-VLP                  the region whose fused cells have the largest cosine with the fused words of the word's phrase
X-VLM                   the box that is told of the word's phrase, read alone with the picture

The others claim no such pointing: Kaleido-BERT's alignment of words and patches comes with its data and chooses what is
masked, and TCL compares parts with wholes.
"""

import math
from typing import Any

import torch
from torch import Tensor

from vlp.layers.boxes import sample_boxes
from vlp.layers.transport import cosine_cost, ipot
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.graph_masking import OBJECT
from vlp.objectives.knowledge_masking import overlaps
from vlp.objectives.late_contrast import LateContrast
from vlp.objectives.object_masking import as_map
from vlp.objectives.phrase_box import PhraseBox, corners
from vlp.objectives.phrase_region import PhraseRegion, cosines, members
from vlp.objectives.word_patch_contrast import WordPatchContrast
from vlp.task import Task
from vlp.types import Graph, Regions, Stream
from vlp.view import View
from vlp.vision.regions import RegionEmbedding


def alignment(view: View, task: Task) -> dict[str, tuple[float, float]]:
    """Object words that find the box of their thing and object words that name one thing of the picture, for systems
    that claim to align them."""
    graph, regions = _truth(view)
    by_region = isinstance(view.model.vision, RegionEmbedding)
    found = {}
    for objective in task.objectives.values():
        if isinstance(objective, WordPatchAlignment):
            tokens = view.image.mask.shape[1] - objective.skip
            beside = any(isinstance(other, WordPatchContrast) for other in task.objectives.values())
            name = "transport" if beside else "alignment"
            found[name] = pointed(transported(view, objective), graph, regions, tokens, by_region)
        elif isinstance(objective, WordPatchContrast):
            image, text = objective.tokens(view)
            found["alignment"] = pointed(closest(image, text), graph, regions, image.mask.shape[1], by_region)
        elif isinstance(objective, LateContrast):
            found["alignment"] = pointed(nearest(view), graph, regions, patches(view), by_region)
        elif isinstance(objective, PhraseRegion):
            found["alignment"] = pointed(likest(view, objective), graph, regions, 0, by_region=True)
        elif isinstance(objective, PhraseBox):
            found["alignment"] = covered(*told_boxes(view, objective))
    return found


def _truth(view: View) -> tuple[Graph, Regions]:
    assert view.batch.graph is not None
    assert view.batch.regions is not None
    return view.batch.graph, view.batch.regions


def asked_words(graph: Graph) -> Tensor:
    """(B, L) bool: pieces of objects whose phrase names one thing."""
    return (graph.kind == OBJECT) & (graph.region >= 0)


def transported(view: View, objective: WordPatchAlignment) -> Tensor:
    """(B, L) the image token, `skip` left out, that takes the most of each word, of the tokens that it compares."""
    text, seen = view.text, view.image.select(view.pictures(torch.arange(len(view.batch.text_ids))))
    if objective.fused:
        fused = view.fused_with(view.image)
        assert fused.image is not None
        text, seen = fused.text, fused.image
    image, present = seen.tokens[:, objective.skip :], seen.mask[:, objective.skip :]
    spoken = view.batch.word_ids >= 0
    cost = cosine_cost(text.tokens, image, spoken, present)
    return ipot(cost, spoken, present, beta=objective.beta, iterations=objective.iterations).argmax(1)


def patches(view: View) -> int:
    """How many image tokens are patches or cells: the square grid at the end, behind a class token if there is one."""
    return math.isqrt(view.image.mask.shape[1]) ** 2


def nearest(view: View) -> Tensor:
    """(B, L) the patch or cell of the largest cosine with each word."""
    late: Any = view.model.similarities["late"]
    image = late.image_tokens(view.image)
    return closest(
        Stream(image.tokens[:, -patches(view) :], image.mask[:, -patches(view) :]), late.text_tokens(view.text)
    )


def closest(image: Stream, text: Stream) -> Tensor:
    """(B, L) the image token of the largest cosine with each word, of unit tokens."""
    cosine = torch.einsum("ble,bne->bln", text.tokens, image.tokens)
    return cosine.masked_fill(~image.mask[:, None], float("-inf")).argmax(2)


def likest(view: View, objective: PhraseRegion) -> Tensor:
    """(B, L) the region whose cells are most like the phrase of each word, as the objective compares them."""
    graph, regions = _truth(view)
    vision, fused = view.model.vision, view.fused_with(view.image)
    assert fused.image is not None
    cells = sample_boxes(as_map(fused.image.tokens, int(vision.grid)), regions.boxes, objective.points)  # type: ignore[arg-type]
    found = cosines(members(graph.phrase) @ fused.text.tokens, cells)  # (B, phrases, R)
    best = found.masked_fill(~regions.mask[:, None], float("-inf")).argmax(2)
    return best.gather(1, graph.phrase.clamp(min=0))


def told_boxes(view: View, objective: PhraseBox) -> tuple[Tensor, Tensor]:
    """(M, 4) the box told of the phrase of each word that is asked for, and (M, 4) the box of its thing."""
    graph, regions = _truth(view)
    batch = view.batch
    row, place = asked_words(graph).nonzero(as_tuple=True)
    wanted = regions.boxes[row, graph.region[row, place]]
    if not len(row):
        return wanted, wanted
    phrase = graph.phrase[row]
    shown = phrase == phrase.gather(1, place[:, None])
    shown[:, 0] = True
    text = view.model.encode_text(batch.text_ids[row], shown & batch.text_mask[row])
    return corners(objective.box(view.model.summarize(text, view.prepared, row)).sigmoid()), wanted


def covered(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """(M, 4) boxes: those with half of the intersection over union, or whose centre is in the box wanted."""
    centre = (found[:, :2] + found[:, 2:]) / 2
    inside = ((centre >= wanted[:, :2]) & (centre <= wanted[:, 2:])).all(1)
    half = overlaps(torch.stack([found, wanted], 1))[:, 0, 1] >= 0.5
    return float((inside | half).sum()), float(len(wanted))


def pointed(chosen: Tensor, graph: Graph, regions: Regions, tokens: int, by_region: bool) -> tuple[float, float]:
    """A region points to its own row; a patch to a box that holds its centre, or whose centre it holds."""
    asked = asked_words(graph)
    row, wanted = asked.nonzero()[:, 0], graph.region[asked]
    if by_region:
        return float((chosen[asked] == wanted).sum()), float(len(wanted))
    side = round(tokens**0.5)
    x, y = chosen[asked] % side, torch.div(chosen[asked], side, rounding_mode="floor")
    box = regions.boxes[row, wanted]
    centre = torch.stack([x + 0.5, y + 0.5], 1) / side
    inside = ((centre >= box[:, :2]) & (centre <= box[:, 2:])).all(1)
    held = ((box[:, :2] + box[:, 2:]) / 2 * side).long().clamp(max=side - 1)
    return float((inside | ((held[:, 0] == x) & (held[:, 1] == y))).sum()), float(len(wanted))
