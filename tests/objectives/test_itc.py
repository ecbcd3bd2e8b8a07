"""ITC against a loop-by-loop float64 reading of ALBEF's equations 1, 2 and 6."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.itc import ITC, contrast_loss, contrast_targets, smoothed
from vlp.task import Task
from vlp.view import View


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [e / sum(exps) for e in exps]


def slow_contrast(scores: list[list[float]], ids: list[int], others: list[int], teacher: list[list[float]], a: float):
    total = 0.0
    for i, row in enumerate(scores):
        share = sum(o == ids[i] for o in others)
        soft = softmax(teacher[i])
        for j, p in enumerate(softmax(row)):
            y = a * soft[j] + (1 - a) * (others[j] == ids[i]) / share
            total -= y * math.log(p)
    return total / len(scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.floats(0, 1), st.integers(0, 10_000))
def test_contrast_is_the_papers(rows: int, extra: int, alpha: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    columns = rows + extra
    scores, teacher = (torch.randn(rows, columns, generator=g, dtype=torch.float64) * 3 for _ in range(2))
    others = torch.randint(0, 4, (columns,), generator=g)
    ids = others[:rows]
    targets = contrast_targets(ids[:, None] == others[None], teacher, alpha).double()
    expected = slow_contrast(scores.tolist(), ids.tolist(), others.tolist(), teacher.tolist(), alpha)
    assert abs(float(contrast_loss(scores, targets)) - expected) < 1e-5


def test_queue_candidates_compete_and_empty_slots_do_not() -> None:
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**two_stream(queue_size=6)))
    b, itc = batch(size=4), ITC()
    bare = itc(View(task.model, b, momentum=task.teacher)).value
    g = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(2, 16, generator=g), dim=1)
    task.teacher.update([(rows, rows, torch.tensor([100, 101]))])
    task.teacher.sync()
    task.teacher.steps.zero_()
    c = View(task.model, b, momentum=task.teacher).contrast
    scores = (c.scale * c.image @ torch.cat([c.text_candidates[:4], rows]).T).double()
    reverse = (c.scale * c.text @ torch.cat([c.image_candidates[:4], rows]).T).double()
    ids, others = b.image_id.tolist(), [*b.image_id.tolist(), 100, 101]
    zero = [[0.0] * 6] * 4
    expected = sum(slow_contrast(s.tolist(), ids, others, zero, 0.0) for s in (scores, reverse)) / 2
    with_queue = itc(View(task.model, b, momentum=task.teacher)).value
    assert abs(float(with_queue) - expected) < 1e-4
    assert with_queue > bare


def test_the_queue_is_a_ring_for_any_batch() -> None:
    task: Task = build(lazy(Task)(**two_stream(queue_size=7)))
    teacher, seen = task.teacher, []
    for step in range(5):
        ids = torch.arange(step * 3, step * 3 + 3)
        teacher.update([(torch.ones(3, 16) * step, torch.ones(3, 16) * step, ids)])
        seen += ids.tolist()
    assert sorted(teacher.queue_ids.tolist()) == sorted(seen[-7:])
    for i, image in zip(teacher.queue_ids.tolist(), teacher.queue_image, strict=True):
        assert image[0] == i // 3


def test_momentum_is_the_exponential_average() -> None:
    task: Task = build(lazy(Task)(**two_stream()))
    expected = {n: p.clone().double() for n, p in task.model.named_parameters()}
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for p in task.model.parameters():
                p.add_(torch.randn(p.shape, generator=g))
        task.after_step()
        expected = {n: 0.9 * expected[n] + 0.1 * p.double() for n, p in task.model.named_parameters()}
    for name, parameter in task.teacher.model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_smoothing_spreads_its_share_over_the_candidates_that_are_there() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]])
    present = torch.tensor([[True, True, True, False]]).expand(2, -1)
    wanted = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3, 0.0], [0.1 / 3, 0.45 + 0.1 / 3, 0.45 + 0.1 / 3, 0.0]])
    torch.testing.assert_close(smoothed(targets, 0.1, present), wanted)
