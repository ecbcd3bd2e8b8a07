"""Ranking of fused pairs against slow readings, and which rows are whose rivals."""

import math

import pytest
import torch

from tests.parts import batch, one_stream, two_stream
from vlp.config import build, lazy
from vlp.objectives.fused_ranking import FusedRanking, choice_loss, fused_hinges
from vlp.objectives.negatives import HardNegatives, RandomNegatives
from vlp.task import Task
from vlp.view import View


def random() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, generator=g), 2 * torch.randn(4, 5, generator=g), torch.rand(4, 5, generator=g) > 0.3


def p(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_pair_by_pair() -> None:
    own, rivals, there = random()
    there[3] = False
    every, hardest = fused_hinges(own, rivals, there, 0.2, None), fused_hinges(own, rivals, there, 0.2, 2)
    choice = choice_loss(own, rivals, there)
    for i in range(4):
        mine = [float(s) for s, here in zip(rivals[i], there[i], strict=True) if here]
        costs = sorted((max(0.0, 0.2 + p(s) - p(float(own[i]))) for s in mine), reverse=True)
        assert abs(float(every[i]) - sum(costs) / max(len(costs), 1)) < 1e-6
        assert abs(float(hardest[i]) - sum(costs[:2]) / 2) < 1e-6
        total = math.exp(float(own[i])) + sum(math.exp(s) for s in mine)
        assert abs(float(choice[i]) + math.log(math.exp(float(own[i])) / total)) < 1e-5


@pytest.mark.parametrize("policy", [HardNegatives(), RandomNegatives(each=3)])
@pytest.mark.parametrize("kind", ["hinge", "choice"])
def test_each_pair_meets_the_rivals_that_were_drawn_for_it(policy: object, kind: str) -> None:
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**(two_stream(teacher=False) if isinstance(policy, HardNegatives) else one_stream())))
    view = View(task.eval().model, batch(size=6))
    loss = FusedRanking(negatives=policy, kind=kind)  # type: ignore[arg-type]
    found, rows = float(loss(view).value.detach()), view.matched(policy)[0]  # type: ignore[arg-type]
    odds = task.model.match(*_rows(view, rows)).detach()
    total = 0.0
    for i in range(6):
        mine = [k for k in range(6, len(odds)) if i in (int(rows.text[k]), int(rows.image[k])) and k % 6 == i]
        own, rivals = odds[i][None], odds[mine][None]
        here = rows.weight[mine][None] > 0
        total += float(
            fused_hinges(own, rivals, here, 0.2, None) if kind == "hinge" else choice_loss(own, rivals, here)
        )
    assert abs(found - total / 6) < 1e-5


def _rows(view: View, rows: object) -> tuple[object, object, torch.Tensor]:
    from vlp.types import Stream

    texts = Stream(view.text.tokens[rows.text], view.text.mask[rows.text])  # type: ignore[attr-defined]
    return texts, view.prepared, rows.image  # type: ignore[attr-defined]
