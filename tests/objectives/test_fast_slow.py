"""Miech's distillation against loops in float64, and against captions scored by themselves."""

import math
from typing import Any

import pytest
import torch

from tests.parts import batch, captioner
from vlp.config import build, lazy
from vlp.objectives import negatives
from vlp.objectives.fast_slow import distillation_loss
from vlp.similarity.likelihood import log_likelihood
from vlp.task import Task
from vlp.view import View


def test_the_formulas_are_those_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, generator=g), torch.randint(0, 5, (2, 3), generator=g)
    present = torch.tensor([[True, True, True], [True, True, False]])
    for r in range(2):
        total = 0.0
        for t in range(3 - r):
            row = logits[r, t].double().tolist()
            total += row[int(labels[r, t])] - math.log(sum(math.exp(v) for v in row))
        assert abs(float(log_likelihood(logits[present], labels, present)[r]) - total) < 1e-5
    fast, slow = torch.randn(2, 4, generator=g), torch.randn(2, 4, generator=g)
    allowed = torch.tensor([[True] * 4, [True, False, True, True]])
    total = 0.0
    for r in range(2):
        kept = [k for k in range(4) if allowed[r, k]]
        p, q = ({k: math.exp(float(s[r, k])) for k in kept} for s in (slow, fast))
        total -= sum(p[k] / sum(p.values()) * math.log(q[k] / sum(q.values())) for k in kept)
    assert abs(float(distillation_loss(fast, slow, allowed)) - total / 2) < 1e-5


def made() -> Task:
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**captioner()))
    with torch.no_grad():  # far from its beginning, where every caption is as likely as another
        for parameter in task.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return task.eval()


def test_the_loss_is_that_of_captions_scored_alone_with_their_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    task, b = made().double(), batch(captions_per_image=1)
    assert b.image is not None
    b.image = b.image.double()
    model: Any = task.model
    own, rows = torch.arange(8), range(8)
    draws = [(own.roll(1), own >= 0), (own.roll(3), own != 5), (own.roll(4), own >= 0)]  # 5 finds no third candidate
    left = iter(draws)
    monkeypatch.setattr(negatives, "sample_negatives", lambda scores, ids: next(left))
    with torch.no_grad():
        found = float(task.objectives["pair"](View(model, b)).value)
        image, vectors = model.encode_image(b), model.text.embeddings.word.weight
        prepared, cosine, scale = model.prepare_image(image), model.contrast, float(model.contrast.scale())

        def pair(i: int, j: int) -> tuple[float, float]:
            """The slow and the fast one's score of picture i and caption j."""
            ids = b.text_ids[j][b.text_mask[j]][None]
            words = model.encode_text(ids, torch.ones_like(ids) > 0)
            logits = model.similarities["slow"].told(model.decode(words, prepared, own[i : i + 1])[0], vectors)
            told = sum(float(logits[t - 1].log_softmax(0)[ids[0, t]]) for t in range(1, ids.shape[1]))
            return told, scale * float(cosine.embed_image(image)[i] @ cosine.embed_text(words)[0])

        caption = -sum(pair(i, i)[0] for i in rows) / int(b.text_mask[:, 1:].sum())
        total = 0.0
        for i in rows:
            kept = [i] + [int(other[i]) for other, allowed in draws if allowed[i]]
            slow, fast = zip(*(pair(i, j) for j in kept), strict=True)
            p, q = ([math.exp(s) for s in scores] for scores in ([s / 10 for s in slow], fast))
            total -= sum(a / sum(p) * math.log(c / sum(q)) for a, c in zip(p, q, strict=True))
    assert total / 8 > 0.1
    assert abs(found - (caption + total / 8)) < 1e-5


def test_distillation_moves_the_fast_model_alone() -> None:
    task, b = made(), batch(captions_per_image=1)
    objective: Any = task.objectives["pair"]
    whole = objective(View(task.model, b)).value
    objective.distillation = 0.0
    (whole - objective(View(task.model, b)).value).backward()
    moved = {n: float(p.grad.abs().max()) for n, p in task.named_parameters() if p.grad is not None}
    assert moved["model.similarities.itc.text_projection.weight"] > 1e-4
    assert max(size for n, size in moved.items() if n.startswith(("model.fusion", "model.similarities.slow"))) < 1e-5
