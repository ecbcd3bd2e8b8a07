"""The sigmoid contrast against a loop in float64, transformers' SigLIP, and itself in chunks."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SiglipConfig, SiglipModel

from tests.parts import batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.sigmoid import SigmoidContrast, sigmoid_loss
from vlp.task import Task
from vlp.view import View


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 10_000))
def test_the_loss_is_the_papers(rows: int, columns: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=g, dtype=torch.float64) * 8
    positive = torch.rand(rows, columns, generator=g) < 0.3
    total = 0.0
    for row, labels in zip(scores.tolist(), positive.tolist(), strict=True):
        for score, label in zip(row, labels, strict=True):
            total += math.log(1 + math.exp(-(score if label else -score)))
    assert abs(float(sigmoid_loss(scores, positive)) - total / rows) < 1e-9


def test_it_is_transformers_loss() -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    theirs = SiglipModel(
        SiglipConfig(
            text_config={**small, "vocab_size": 40}, vision_config={**small, "image_size": 16, "patch_size": 8}
        )
    ).eval()
    out = theirs(input_ids=torch.randint(0, 40, (5, 7)), pixel_values=torch.randn(5, 3, 16, 16), return_loss=True)
    scores = theirs.logit_scale.exp() * out.image_embeds @ out.text_embeds.T + theirs.logit_bias
    torch.testing.assert_close(sigmoid_loss(scores, torch.eye(5, dtype=torch.bool)), out.loss)


@pytest.mark.parametrize("chunk", [1, 3, 8, 50])
def test_chunks_change_neither_loss_nor_gradients(chunk: int) -> None:
    results = []
    for size in (None, chunk):
        torch.manual_seed(0)
        task: Task = build(lazy(Task)(**two_stream(teacher=False))).double()
        objective = SigmoidContrast(chunk=size).double()
        b = batch()
        value = objective(View(task.model, replace(b, image=b.image.double()))).value  # type: ignore[union-attr]
        value.backward()
        gradients = [p.grad for p in [*task.model.parameters(), objective.bias] if p.grad is not None]
        results.append([value.detach(), *gradients])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_a_teacher_is_an_error() -> None:
    task: Task = build(lazy(Task)(**two_stream()))
    with pytest.raises(ValueError, match="teacher=null"):
        SigmoidContrast()(View(task.model, batch(), momentum=task.teacher))
