"""Word-patch alignment: the signed mean over rows, of fused tokens or of those that enter the fusion."""

import pytest
import torch

from benchmarks.learned_alignment import transported
from tests.parts import batch, one_stream
from vlp.config import build
from vlp.objectives.alignment import WordPatchAlignment, alignment_loss
from vlp.objectives.negatives import RandomNegatives
from vlp.task import Task
from vlp.view import View


def test_matched_pull_unmatched_push_and_weightless_rows_count_for_nothing() -> None:
    distance = torch.tensor([0.5, 0.25, 0.75, 100.0])
    label, weight = torch.tensor([1, 1, 0, 0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert abs(float(alignment_loss(distance, label, weight)) - (0.5 + 0.25 - 0.75) / 3) < 1e-6


def slow_distance(words: torch.Tensor, patches: torch.Tensor, steps: int = 50) -> float:
    """IPOT of UNITER's appendix on one pair without padding, beta 0.5."""
    words, patches = words.double(), patches.double()
    cosines = (words @ patches.T) / (words.norm(dim=1)[:, None] * patches.norm(dim=1))
    cost = 1 - cosines
    plan, sigma = torch.ones_like(cost), torch.full((len(words),), 1 / len(words), dtype=torch.float64)
    for _ in range(steps):
        step = torch.exp(-cost / 0.5) * plan
        delta = 1 / (len(patches) * (step.T @ sigma))
        sigma = 1 / (len(words) * (step @ delta))
        plan = sigma[:, None] * step * delta
    return float((plan * cost).sum())


def test_unfused_tokens_are_compared_as_they_enter_the_fusion() -> None:
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())).eval(), batch()
    objective = WordPatchAlignment(negatives=RandomNegatives(), fused=False)
    with torch.no_grad():
        view = View(task.model, b)
        rows, _, fused, _ = view.matched(objective.negatives)
        value = float(objective(view).value)
    assert fused is None  # nothing but [CLS] of the pass was asked for
    total = 0.0
    for text, image, label in zip(rows.text.tolist(), rows.image.tolist(), rows.label.tolist(), strict=True):
        distance = slow_distance(view.text.tokens[text][b.word_ids[text] >= 0], view.image.tokens[image, 1:])
        total += distance if label else -distance
    assert value == pytest.approx(total / len(rows.label), abs=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_pointing_asks_the_tokens_that_the_objective_compares(fused: bool) -> None:
    """A fusion that leaves nothing of a token changes what fused words point to, and nothing else."""
    torch.manual_seed(0)
    task, b = Task(**build(one_stream())).eval(), batch()
    objective = WordPatchAlignment(negatives=RandomNegatives(), fused=fused)
    pointed = []
    for scale in (1.0, 30.0):
        with torch.no_grad():
            for parameter in task.model.fusion.parameters():  # type: ignore[union-attr]
                parameter.mul_(scale)
            pointed.append(transported(View(task.model, b), objective))
    words = b.word_ids >= 0
    assert torch.equal(pointed[0][words], pointed[1][words]) != fused
