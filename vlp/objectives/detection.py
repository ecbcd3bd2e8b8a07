"""Objects told as a set (DETR, Carion 2020, section 3.1), on fused image tokens (E2E-VLP, Xu 2021, section 3.2)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.assignment import cheapest_columns
from vlp.layers.blocks import init_transformer
from vlp.layers.gather import rank_weight
from vlp.objectives.phrase_box import centred, corners, generalized_iou
from vlp.types import Loss, Regions, Stream
from vlp.view import Negatives, View

BOX, OVERLAP = 5.0, 2.0  # weights of DETR's L1 and GIoU, in the matching and in the loss


@torch.no_grad()
def matched(probabilities: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor, there: Tensor) -> Tensor:
    """(B, R) query that each object `there` (B, R) is assigned to, no two of a picture alike; -1 where none is there.

    The cost of a pair is -p(class) + 5 L1 (of centres and sizes) - 2 GIoU, of (B, Q, K + 1) class probabilities and
    (B, Q, 4) corner boxes. One device-to-host copy serves the batch.
    """
    classes = probabilities.gather(2, labels[:, None].expand(-1, probabilities.shape[1], -1))  # (B, Q, R)
    one, two = boxes[:, :, None], wanted[:, None]
    cost = BOX * (centred(one) - centred(two)).abs().sum(-1) - classes - OVERLAP * generalized_iou(one, two)
    found = torch.full(labels.shape, -1)
    for row, (own, here) in enumerate(zip(cost.float().cpu().numpy(), there.cpu(), strict=True)):
        found[row, here] = torch.from_numpy(cheapest_columns(own[:, here.numpy()].T))
    return found.to(labels.device)


def set_loss(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor, query: Tensor, nothing: float) -> Tensor:
    """DETR's loss of (B, Q, K + 1) logits, the last class "no object", and (B, Q, 4) corner boxes, where object r of a
    picture is told by query[r] (-1 none): cross entropy, "no object" weighing `nothing`, plus 5 L1 (of centres and
    sizes) + 2 (1 - GIoU). Means over the queries' weights and over the objects of all ranks: two all-reduces of one
    number."""
    batch, object_ = (query >= 0).nonzero(as_tuple=True)
    place = query[batch, object_]
    target = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    target[batch, place] = labels[batch, object_]
    weight = torch.ones(logits.shape[2], device=logits.device, dtype=logits.dtype)
    weight[-1] = nothing
    told = F.cross_entropy(logits.transpose(1, 2), target, weight) * rank_weight(weight[target].sum(), logits.device)
    found, right = boxes[batch, place], wanted[batch, object_]
    each = BOX * (centred(found) - centred(right)).abs().sum(-1) + OVERLAP * (1 - generalized_iou(found, right))
    return told + rank_weight(len(place), logits.device) * each.sum() / max(len(place), 1)


class SetDetection(nn.Module):
    """Learned queries read the fused image tokens of each pair in a `decoder` and tell the detector's objects as a set.

    Needs regions, whose likeliest classes and boxes are the objects, at most as many as `queries`, and a fusion that
    gives back image tokens. Reads the pass of the ITM objective with equal `negatives`, its matched pairs alone.
    """

    whole_rows = True  # the view then computes every token of the matching pass

    def __init__(
        self,
        *,
        width: int,
        classes: int,
        decoder: nn.Module,
        negatives: Negatives,
        queries: int = 100,
        nothing: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.negatives = negatives
        self.classes = classes
        self.nothing = nothing
        self.weight = weight
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.label = nn.Linear(width, classes + 1)
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        for part in (self.label, self.box):
            init_transformer(part, width)

    def forward(self, view: View) -> Loss:
        """The set loss, and the mean GIoU of the matched boxes."""
        regions, row = cast(Regions, view.batch.regions), view.batch.image_row
        labels, wanted, there = regions.class_probs.argmax(2), regions.boxes, regions.mask
        if row is not None:
            labels, wanted, there = labels[row], wanted[row], there[row]
        if there.shape[1] > len(self.queries):
            raise ValueError(f"{there.shape[1]} regions, but only {len(self.queries)} queries; raise queries")
        states = self._read(view)
        logits, boxes = self.label(states).float(), corners(self.box(states).float().sigmoid())
        query = matched(logits.softmax(-1), boxes, labels, wanted, there)
        value = set_loss(logits, boxes, labels, wanted, query, self.nothing)
        told, objects = boxes.gather(1, query.clamp(min=0)[..., None].expand(-1, -1, 4)), (query >= 0).sum()
        overlap = generalized_iou(told, wanted).masked_fill(query < 0, 0.0).sum() / objects.clamp(min=1)
        overlap = overlap * rank_weight(objects, overlap.device)
        return Loss(value, {"detection": value.detach(), "detection_giou": overlap.detach()})

    def _read(self, view: View) -> Tensor:
        """(B, Q, D) states of the queries."""
        _, _, fused, _ = view.matched(self.negatives)
        if fused is None or fused.image is None:
            raise ValueError("detection needs a fusion that gives image tokens (OneStream)")
        size, decoder = len(view.batch), cast(Any, self.decoder)
        image = Stream(fused.image.tokens[:size], fused.image.mask[:size])
        queries = self.queries.expand(size, -1, -1)
        mask = torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)
        return cast(Tensor, decoder(Stream(queries, mask), decoder.prepare(image)).text.tokens)
