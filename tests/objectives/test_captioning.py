"""Captioning against loops in float64, and what a word may read."""

import math
from typing import Any

import pytest
import torch

from tests.parts import VOCAB, WIDTH, batch, one_stream, two_stream
from vlp.config import build, lazy
from vlp.fusion.cross import CrossFusion
from vlp.objectives.captioning import Captioning, next_word_loss
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View


def test_the_loss_is_that_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 7, generator=g), torch.randint(0, 7, (5,), generator=g)
    for smoothing in (0.0, 0.1):
        total = 0.0
        for z, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
            norm = math.log(sum(math.exp(v) for v in z))
            total -= sum(((1 - smoothing) * (i == label) + smoothing / 7) * (v - norm) for i, v in enumerate(z))
        assert abs(float(next_word_loss(logits, labels, smoothing)) - total / 5) < 1e-5


def made(kind: str) -> Task:
    torch.manual_seed(0)
    system: dict[str, Any] = one_stream() if kind == "prefix" else two_stream(teacher=False)
    decoder = lazy(CrossFusion)(width=WIDTH, layers=2, heads=4, image_width=WIDTH, dropout=0.0)
    if kind == "causal":
        system["model"].kwargs["text"].kwargs["causal"] = True
    options = {"decoder": decoder} if kind == "decoder" else {}
    system["objectives"] = {"caption": lazy(Captioning)(width=WIDTH, vocab_size=VOCAB, **options)}
    task: Task = build(lazy(Task)(**system))
    return task.eval()


@pytest.mark.parametrize("kind", ["prefix", "causal", "decoder"])
def test_a_word_reads_the_picture_and_the_words_before_it_alone(kind: str) -> None:
    task, b = made(kind), batch(captions_per_image=1)
    objective: Any = task.objectives["caption"]

    def states(b: Batch) -> torch.Tensor:
        found: torch.Tensor = objective.decoded(View(task.model, b)).detach()
        return found

    one = states(b)
    b.text_ids = b.text_ids.clone()
    b.text_ids[:, 3:] = 7
    two = states(b)
    torch.testing.assert_close(one[:, :3], two[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one[0, 3], two[0, 3], atol=1e-4)
    assert b.image is not None
    b.image = b.image.flip(0)
    assert not torch.allclose(states(b)[:, :3], two[:, :3], atol=1e-5)


def test_a_text_part_that_reads_both_ways_is_refused() -> None:
    system = two_stream(teacher=False)
    system["objectives"] = {"caption": lazy(Captioning)(width=WIDTH, vocab_size=VOCAB)}
    task: Task = build(lazy(Task)(**system))
    with pytest.raises(ValueError, match="causal=true"):
        task(batch())
