"""KD-VLP's hidden objects: which one, which cells, and that the picture inside them is out of sight."""

from typing import Any

import torch

from tests.parts import WIDTH, batch, one_stream, regions
from vlp.config import build, lazy
from vlp.layers.boxes import sample_boxes
from vlp.objectives.object_masking import ObjectMasking, as_map, one_region
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View
from vlp.vision.grid import GridCNN

CNN = {"layers": [1, 1], "channels": [8, 16], "out_indices": [2]}
GRID = lazy(GridCNN)(name="resnet18", image_size=32, width=WIDTH, norm="group", hides=True, options=CNN)


def made() -> tuple[Task, Batch]:
    torch.manual_seed(0)
    system: dict[str, Any] = one_stream()
    system["model"].kwargs["vision"] = GRID
    system["objectives"] = {"omvm": lazy(ObjectMasking)(width=WIDTH, feature_width=6, classes=5)}
    b = batch(captions_per_image=1)
    b.regions = regions(8, 4, 6, 5)
    task: Task = build(lazy(Task)(**system))
    return task.eval(), b


def test_any_region_that_is_there_is_drawn_and_no_other() -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, True, False], [False] * 4])
    drawn = set()
    for seed in range(40):
        torch.manual_seed(seed)
        drawn.add(tuple(one_region(mask).tolist()))
    assert drawn == {(0, 2, 0), (2, 2, 0), (3, 2, 0)}


def test_tokens_lie_row_by_row() -> None:
    tokens = torch.arange(12.0).view(1, 4, 3)
    corner = torch.tensor([[[0.5, 0.0, 1.0, 0.5]]])  # right, above
    torch.testing.assert_close(sample_boxes(as_map(tokens, 2), corner, 1)[0, 0], tokens[0, 1])


def test_pictures_without_a_region_and_content_under_padding_weigh_nothing() -> None:
    task, b = made()
    assert b.regions is not None
    b.regions.mask[:] = torch.tensor([True, False, False, False])  # the draw is certain
    b.regions.mask[5] = False
    one = task(b).value
    b.regions.features[5] = 9.0
    b.regions.features[:, 1:] = 7.0
    torch.testing.assert_close(task(b).value, one)
    b.regions.features[4, 0] += 1.0
    assert not torch.allclose(task(b).value, one, atol=1e-3)


def test_the_losses_are_those_of_the_fused_cells_inside_the_box() -> None:
    task, b = made()
    objective: Any = task.objectives["omvm"]
    assert b.regions is not None
    b.regions.mask[:] = torch.tensor([True, False, False, False])
    b.regions.boxes[:, 0] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    hidden = torch.zeros(8, 16, dtype=torch.bool)
    hidden.view(8, 4, 4)[:, :2, :2] = True
    for parameter in task.parameters():
        parameter.requires_grad_(False)
    view = View(task.model, b)
    fused = view.fused_with(view.hiding(hidden))
    assert fused.image is not None
    seen = sample_boxes(as_map(fused.image.tokens, 4), b.regions.boxes[:, :1], 3)[:, 0]
    told = objective.transform(seen)
    squares = (objective.feature(told) - b.regions.features[:, 0]).double().square().mean()
    p, log_q = b.regions.class_probs[:, 0].double(), objective.label(told).double().log_softmax(1)
    divergence = sum(float(p[i, k] * (p[i, k].log() - log_q[i, k])) for i in range(8) for k in range(5)) / 8
    found = task(b).report
    assert abs(float(found["omvm_feature"]) - float(squares)) < 1e-4
    assert abs(float(found["omvm_class"]) - divergence) < 1e-4
