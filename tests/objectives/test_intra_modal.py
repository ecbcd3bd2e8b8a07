"""TCL's contrast of parts with wholes against loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.parts import batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.intra_modal import IntraModalContrast, LocalGlobalContrast, part_loss
from vlp.task import Task
from vlp.view import View


def test_parts_find_their_whole_as_in_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    parts = F.normalize(torch.randn(3, 4, 5, generator=g), dim=-1)
    wholes = F.normalize(torch.randn(6, 5, generator=g), dim=-1)
    mask = torch.arange(4)[None] < torch.tensor([4, 1, 3])[:, None]
    ids, own = torch.tensor([0, 0, 1, 2, 3, 2]), torch.tensor([0, 2, 3])  # wholes 0, 1 and 3, 5 are of one picture
    positive = ids[own][:, None] == ids
    total, count = 0.0, 0
    for b in range(3):
        for n in range(4):
            if mask[b, n]:
                score = [float(parts[b, n].double() @ w.double()) / 0.07 for w in wholes]
                rivals = [k for k in range(6) if ids[k] != ids[own[b]] or k == own[b]]
                total -= score[int(own[b])] - math.log(sum(math.exp(score[k]) for k in rivals))
                count += 1
    assert abs(float(part_loss(parts, mask, wholes, own, positive, 0.07)) - total / count) < 1e-4


def task() -> Task:
    torch.manual_seed(0)
    made: Task = build(lazy(Task)(**two_stream(queue_size=0) | {"objectives": {"imc": lazy(IntraModalContrast)()}}))
    return made


def test_contrast_within_a_modality_is_that_of_the_paper() -> None:
    made, b = task(), batch(captions_per_image=1)
    with torch.no_grad():
        found = made(b).value
        view = View(made.model, b, momentum=made.teacher)
        c = view.contrast
        total = 0.0
        for own, others in ((c.image, c.image_candidates), (c.text, c.text_candidates)):
            scores = float(c.scale) * own.double() @ others.double().T
            total -= sum(float(scores[i, i] - scores[i].exp().sum().log()) for i in range(8)) / 16
    assert abs(float(found) - total) < 1e-4


def test_it_needs_a_teacher() -> None:
    made = task()
    with pytest.raises(ValueError, match="teacher"):
        made.objectives["imc"](View(made.model, batch()))


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_of_pictures_change_neither_loss_nor_gradients(chunk: int) -> None:
    results = []
    for size in (None, chunk):
        made, b = task().double(), batch()
        b.image = b.image.double()  # type: ignore[union-attr]
        value = LocalGlobalContrast(chunk=size)(View(made.model, b)).value
        value.backward()
        results.append([value.detach(), *(p.grad for p in made.model.parameters() if p.grad is not None)])
    assert len(results[0]) > 40
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)
