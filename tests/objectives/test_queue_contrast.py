"""Contrast with a queue against loops in float64, and how the queue starts."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.parts import batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.queue_contrast import QueueContrast, queue_loss
from vlp.task import Task
from vlp.teacher import Teacher


def unit(g: torch.Generator, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=g), dim=-1)


def test_the_loss_is_that_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    queries, keys, queue = unit(g, 3, 5), unit(g, 3, 5), unit(g, 6, 5)
    same = torch.zeros(3, 6, dtype=torch.bool)
    same[1, 2] = same[1, 4] = True
    total = 0.0
    for b in range(3):
        own = math.exp(float(queries[b].double() @ keys[b].double()) / 0.07)
        others = sum(
            math.exp(float(queries[b].double() @ queue[n].double()) / 0.07) for n in range(6) if not same[b, n]
        )
        total -= math.log(own / (own + others))
    assert abs(float(queue_loss(queries, keys, queue, same, 1 / 0.07)) - total / 3) < 1e-4


def task(**teacher: object) -> Task:
    torch.manual_seed(0)
    options = {"queue_size": 20, "momentum": 0.9} | teacher
    parts = two_stream() | {"objectives": {"moco": lazy(QueueContrast)()}}
    made: Task = build(lazy(Task)(**parts | {"teacher": lazy(Teacher)(**options)}))  # type: ignore[arg-type]
    return made.train()


def test_a_random_queue_teaches_from_the_first_step_and_an_empty_one_cannot() -> None:
    b = batch(captions_per_image=1)
    assert float(task()(b).report["moco"]) == 0.0
    made = task(random_queue=True)
    assert float(made(b).report["moco"]) > 0.1
    made.after_step()
    ids = made.teacher.queue_ids.tolist()  # type: ignore[union-attr, operator]
    assert ids == [*range(8), *[-2] * 12]


def test_what_the_queue_holds_of_the_own_picture_is_no_negative() -> None:
    made, b = task(random_queue=True), batch(captions_per_image=8)  # one picture
    made(b)
    made.after_step()
    losses = []
    for image_id in (0, 1):
        b.image_id = torch.full_like(b.image_id, image_id)
        for flip in (1.0, -1.0):
            made.teacher.queue_text[:8] *= flip  # type: ignore[union-attr, index, operator]
            losses.append(float(made(b).report["moco"]))
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


def test_it_needs_a_queue() -> None:
    with pytest.raises(ValueError, match="queue_size"):
        task(queue_size=0)(batch())
