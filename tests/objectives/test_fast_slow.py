"""Miech's distillation against loops in float64, and against one caption scored by itself."""

import math
from typing import Any

import pytest
import torch

from tests.parts import VOCAB, WIDTH, batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.captioning import Captioning
from vlp.objectives.fast_slow import FastSlow, distillation_loss, log_likelihood
from vlp.pooling.tokens import LastPool
from vlp.task import Task
from vlp.types import Stream
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
    system: dict[str, Any] = two_stream(teacher=False)
    system["model"].kwargs["text"].kwargs["causal"] = True
    del system["model"].kwargs["similarities"]["itm"]
    system["model"].kwargs["similarities"]["itc"].kwargs["text_pool"] = lazy(LastPool)()
    system["objectives"] = {"pair": lazy(FastSlow)(slow=lazy(Captioning)(width=WIDTH, vocab_size=VOCAB))}
    task: Task = build(lazy(Task)(**system))
    return task.eval()


def test_a_caption_is_scored_as_if_it_stood_alone_with_its_picture() -> None:
    task, b = made(), batch(captions_per_image=1)
    objective, model = task.objectives["pair"], task.model
    text = torch.tensor([3, 2, 1, 0, 7, 6, 5, 4])
    with torch.no_grad():
        view = View(model, b)
        found = objective._scored(view, text)  # type: ignore[operator]
        for i, j in enumerate(text.tolist()):
            n = int(b.text_mask[j].sum())
            words: Stream = model.encode_text(b.text_ids[j : j + 1, :n], b.text_mask[j : j + 1, :n])
            states = model.fusion.decode(words, view.prepared, torch.tensor([i]))  # type: ignore[union-attr, operator]
            logits = objective.slow.told(states, model.text.embeddings.word.weight).double()  # type: ignore[union-attr, operator]
            alone = sum(float(logits[0, t - 1].log_softmax(0)[b.text_ids[j, t]]) for t in range(1, n))
            assert abs(float(found[i]) - alone) < 1e-3


def test_distillation_moves_the_fast_model_alone() -> None:
    task, b = made(), batch(captions_per_image=1)
    objective: Any = task.objectives["pair"]
    (objective(View(task.model, b)).value - objective.slow(View(task.model, b)).value).backward()
    moved = {n: float(p.grad.abs().max()) for n, p in task.named_parameters() if p.grad is not None}
    assert moved["model.similarities.itc.text_projection.weight"] > 1e-4
    assert max(size for n, size in moved.items() if n.startswith(("model.fusion", "objectives"))) < 1e-6


def test_a_captioner_with_a_decoder_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder"):
        FastSlow(slow=Captioning(width=WIDTH, vocab_size=VOCAB, decoder=torch.nn.Identity()))
