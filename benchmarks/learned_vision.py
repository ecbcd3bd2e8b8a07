"""Masked vision and detection against answers that look at nothing, on pictures that a system has not seen.

The blind answer is the best constant one for the very places that were asked for: the most frequent class, the mean of
the features, the mean distribution, the shares of the labels. An objective's places are known again from its seed.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.draws import some
from vlp.objectives.detection import SetDetection, matched
from vlp.objectives.kaleido import STARTS, Kaleido
from vlp.objectives.masked_dictionary import MaskedDictionary
from vlp.objectives.masked_patches import MaskedPatches
from vlp.objectives.masked_regions import MaskedRegions, hide_regions
from vlp.objectives.masked_tags import MaskedTags
from vlp.objectives.object_masking import ObjectMasking, one_region
from vlp.objectives.phrase_box import corners, generalized_iou
from vlp.task import Task
from vlp.types import Batch, Regions, Stream
from vlp.view import View

# What is told: the label (a share of right answers), its chances (cross entropy), a distribution (divergence), or
# numbers (mean square). Only of the first more is better.
Kind = Literal["label", "chances", "distribution", "numbers"]
Targets = dict[str, tuple[Tensor, Kind]]
Reader = Callable[[], Iterator[Batch]]
MASKED = MaskedRegions | MaskedPatches | MaskedDictionary | MaskedTags | ObjectMasking | Kaleido


def best_blind(target: Tensor, kind: Kind) -> float:
    """The best that a constant answer reaches: over (M,) labels the share of the most frequent one, or the entropy of
    their shares; over (M, K) distributions the mean divergence from their mean; over (M, F) rows the mean squared
    distance to their mean."""
    if kind in ("label", "chances"):
        shares = target.bincount() / len(target)
        return float(shares.max() if kind == "label" else -torch.xlogy(shares, shares).sum())
    mean = target.mean(0)
    if kind == "numbers":
        return float((target - mean).square().mean())
    return float((torch.xlogy(target, target) - torch.xlogy(target, mean)).sum(1).mean())


class Watched(View):
    """A view that remembers what was hidden last, (P, N) bool."""

    hidden: Tensor

    def hiding(self, hidden: Tensor) -> Stream:
        """What a view gives, remembered."""
        self.hidden = hidden
        return super().hiding(hidden)


@torch.no_grad()
def vision(task: Task, read: Reader) -> dict[str, float]:
    """Each vision objective's figures under the names of its reports, and with " blind" what they are held against."""
    found: dict[str, float] = {}
    for objective in task.objectives.values():
        if isinstance(objective, MASKED):
            found |= masked(objective, task, read)
        elif isinstance(objective, SetDetection):
            found |= detection(objective, task, read)
    return found


def masked(objective: nn.Module, task: Task, read: Reader) -> dict[str, float]:
    """The reports over the batches, each batch weighing as many places as it asked for, and the blind answers."""
    rows: dict[str, list[tuple[float, Tensor, Kind]]] = {}
    for number, batch in enumerate(read()):
        view = Watched(task.model, batch, momentum=task.teacher, whole_rows=True)
        torch.manual_seed(number)
        report = objective(view).report
        torch.manual_seed(number)
        for name, (target, kind) in targets(objective, view).items():
            if len(target):
                rows.setdefault(name, []).append((float(report[name]), target, kind))
    found = {}
    for name, told in rows.items():
        joined = torch.cat([target for _, target, _ in told])
        found[name] = sum(value * len(target) for value, target, _ in told) / len(joined)
        found[f"{name} blind"] = best_blind(joined, told[0][2])
    return found


def targets(objective: nn.Module, view: Watched) -> Targets:
    """What was asked for, by the name of its report, when the objective had drawn from the seed that is set again."""
    batch = view.batch
    if isinstance(objective, Kaleido):
        return _kaleido(objective, view)
    if isinstance(objective, MaskedTags):
        assert batch.tags is not None
        return {"mtl_accuracy": (batch.tags.ids[some(batch.tags.mask, objective.probability)], "label")}
    if isinstance(objective, MaskedDictionary):
        codes: Any = view.model.vision.codes
        return {"mvm_accuracy": (codes(batch)[view.hidden], "label")}
    if isinstance(objective, MaskedPatches):
        features: Any = view.model.vision.hidden_features
        there = features(batch)[view.hidden].float()
        if objective.target == "kl":
            return {"mpm": (there.softmax(-1), "distribution")}
        return {"mpm": (F.layer_norm(there, there.shape[-1:]), "numbers")}
    assert batch.regions is not None
    if isinstance(objective, ObjectMasking):
        return _objects(objective, batch.regions)
    assert isinstance(objective, MaskedRegions)
    return _regions(objective, batch, batch.regions)


def _regions(objective: MaskedRegions, batch: Batch, regions: Regions) -> Targets:
    chosen = objective.masking
    hidden = hide_regions(regions.mask, objective.probability) if chosen is None else chosen.hidden(batch)
    found: Targets = {}
    if objective.feature_weight:
        found["mrfr"] = (regions.features[hidden].float(), "numbers")
    if objective.class_weight:
        shares = regions.class_probs[hidden]
        found["mrc"] = _classes(shares, objective.target)
        found["mrc_accuracy"] = (shares.argmax(1), "label")
    return {("alone_" if objective.alone else "") + name: target for name, target in found.items()}


def _objects(objective: ObjectMasking, regions: Regions) -> Targets:
    there = regions.mask.any(1)
    place = torch.arange(len(there)), one_region(regions.mask)
    features, shares = regions.features[place][there].float(), regions.class_probs[place][there]
    return {"omvm_feature": (features, "numbers"), "omvm_class": _classes(shares, objective.target)}


def _classes(shares: Tensor, target: Literal["kl", "label"]) -> tuple[Tensor, Kind]:
    return (shares.float(), "distribution") if target == "kl" else (shares.argmax(1), "chances")


def _kaleido(objective: Kaleido, view: View) -> Targets:
    hidden_features: Any = view.model.vision.hidden_features
    features: Tensor = hidden_features(view.batch)
    answers, each = objective._answers(view.batch, len(features)), torch.arange(len(features))
    found: Targets = {f"kaleido_{name}": (answers[name], "chances") for name in ("turn", "order")}
    found["kaleido_stranger"] = (answers["stranger"][answers["there"]], "chances")
    for name, start in (("grey", STARTS[3]), ("blank", STARTS[4])):
        found[f"kaleido_{name}"] = (features[each, start + answers[name]].float().softmax(-1), "distribution")
    return found


def detection(objective: SetDetection, task: Task, read: Reader) -> dict[str, float]:
    """The class accuracy and the mean GIoU of the boxes that are nearest to the objects.

    Objects are assigned by boxes alone: among many queries an assignment that knows the classes would find a right one
    for each object, even if no query looked at the picture. Blind is the same model that reads another picture, which
    knows where things use to be, or the most frequent class if that is more.
    """
    right, other, labels = torch.zeros(2), torch.zeros(2), []
    for number, batch in enumerate(read()):
        assert batch.regions is not None
        torch.manual_seed(number)
        logits, boxes = queries(objective, View(task.model, batch, momentum=task.teacher, whole_rows=True))
        right += assigned(logits, boxes, batch.regions)
        other += assigned(logits.roll(1, 0), boxes.roll(1, 0), batch.regions)
        labels.append(batch.regions.class_probs.argmax(2)[batch.regions.mask])
    classes = torch.cat(labels)
    if not len(classes):
        return {}
    (accuracy, giou), (blind, blind_giou) = (right / len(classes)).tolist(), (other / len(classes)).tolist()
    found = {"detection_accuracy": accuracy, "detection_accuracy blind": max(blind, best_blind(classes, "label"))}
    return found | {"detection_giou": giou, "detection_giou blind": blind_giou}


def queries(objective: SetDetection, view: View) -> tuple[Tensor, Tensor]:
    """(B, Q, K) logits of the classes, "no object" left out, and (B, Q, 4) corner boxes of what is told of a view."""
    seen: list[Tensor] = []
    handles = [
        part.register_forward_hook(lambda *call: seen.append(call[2])) for part in (objective.label, objective.box)
    ]
    try:
        objective(view)
    finally:
        for handle in handles:
            handle.remove()
    return seen[0][..., :-1].float(), corners(seen[1].float().sigmoid())


def assigned(logits: Tensor, boxes: Tensor, regions: Regions) -> Tensor:
    """(2,) how many objects get their class right, and the sum of their GIoUs, assigned by boxes alone."""
    labels = regions.class_probs.argmax(2)
    query = matched(torch.zeros_like(logits), boxes, labels, regions.boxes, regions.mask)
    row, place = (query >= 0).nonzero(as_tuple=True)
    found = query[row, place]
    right = (logits[row, found].argmax(1) == labels[row, place]).sum()
    overlap = generalized_iou(boxes[row, found], regions.boxes[row, place]).sum()
    return torch.stack([right.float(), overlap])
