"""Triplet ranking against a slow reading of the papers, and two passes against one."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import VOCAB, batch, regions
from vlp.model import VLModel
from vlp.objectives.pair_loss import PairLoss
from vlp.objectives.ranking import Ranking, violations
from vlp.reasoning.adapter import TokenAdapter
from vlp.similarity.stacked_attention import StackedAttention
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.text.recurrent import RecurrentText
from vlp.types import Batch
from vlp.view import View
from vlp.vision.region_features import RegionFeatures


def slow_hinges(scores: torch.Tensor, ids: list[int], others: list[int], own: list[int], margin: float, negatives):
    out = []
    for i, row in enumerate(scores.tolist()):
        costs = [max(0.0, margin + s - row[own[i]]) for s, other in zip(row, others, strict=True) if other != ids[i]]
        costs = sorted(costs, reverse=True)
        if negatives == "all":
            out.append(sum(costs))
        else:
            n = 1 if negatives == "hardest" else min(negatives, len(row))
            out.append(sum(costs[:n]) / n)
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 4), st.sampled_from(["all", "hardest", 2]), st.integers(0, 10_000))
def test_hinges_are_the_papers(rows: int, extra: int, negatives: str | int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, rows + extra, generator=g, dtype=torch.float64)
    others = torch.randint(0, 4, (rows + extra,), generator=g)
    own = scores.diagonal()
    found = violations(scores, own, others[:rows, None] != others[None], 0.2, negatives)
    wanted = slow_hinges(scores, others[:rows].tolist(), others.tolist(), list(range(rows)), 0.2, negatives)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_each_pair_may_have_its_own_margin() -> None:
    scores, rival = torch.tensor([[1.0, 0.9], [0.9, 1.0]]), ~torch.eye(2, dtype=torch.bool)
    found = violations(scores, scores.diagonal(), rival, torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.1]))


def model() -> VLModel:
    torch.manual_seed(0)
    heads = {side: TokenAdapter(width=12, embed_dim=8, unit=True) for side in ("image", "text")}
    return VLModel(
        vision=RegionFeatures(feature_width=12),
        text=RecurrentText(vocab_size=VOCAB, word_width=6, width=12),
        similarities={"match": TokenSimilarity(**heads, scorer=StackedAttention(direction="both", pooling="mean"))},
    )


def some_batch() -> Batch:
    made = batch(size=6, captions_per_image=2)
    made.image = None
    made.regions = regions(3, 5, 12, 2)
    made.image_row = torch.tensor([0, 0, 1, 1, 2, 2])
    return made


def test_the_loss_over_a_batch_that_shares_pictures() -> None:
    net, b = model(), some_batch()
    view = View(net, b)
    scores = net.similarities["match"].scores(view.image, view.text).detach()
    row, ids = b.image_row.tolist(), b.image_id.tolist()
    to_text = slow_hinges(scores[b.image_row], ids, ids, list(range(6)), 0.2, "hardest")
    to_image = slow_hinges(scores.T, ids, [0, 1, 2], row, 0.2, "hardest")
    found = float(Ranking(similarity="match")(View(net, b)).value)
    assert abs(found - sum(to_text + to_image) / 6) < 1e-5


@pytest.mark.parametrize(
    "loss",
    [
        partial(Ranking, similarity="match"),
        partial(Ranking, similarity="match", squash=True),
        partial(PairLoss, similarity="match", pairs="hardest"),
    ],
)
def test_two_passes_are_one(loss: Any) -> None:
    found = []
    for two_pass in (False, True):
        net, b = model().double(), some_batch()
        b.regions.features, b.regions.boxes = b.regions.features.double(), b.regions.boxes.double()
        value = loss(two_pass=two_pass)(View(net, b)).value
        value.backward()
        found.append({"value": value.detach()} | {n: p.grad for n, p in net.named_parameters()})
    for name, one in found[0].items():
        torch.testing.assert_close(found[1][name], one, msg=lambda m, n=name: f"{n}: {m}")


def test_the_first_steps_take_every_rival() -> None:
    net, b = model(), some_batch()
    loss = Ranking(similarity="match", easy_steps=1)
    every = Ranking(similarity="match", negatives="all")(View(net, b)).value
    assert torch.equal(loss(View(net, b)).value, every)
    loss.after_step()
    assert torch.equal(loss(View(net, b)).value, Ranking(similarity="match")(View(net, b)).value)


def test_captions_of_a_picture_are_to_be_neighbours() -> None:
    from vlp.layers.chain import Chain
    from vlp.pooling.tokens import MeanPool
    from vlp.similarity.vector import VectorSimilarity

    torch.manual_seed(0)
    heads = {side: Chain(parts=[TokenAdapter(width=12, embed_dim=8), MeanPool()]) for side in ("image", "text")}
    net, b = model(), some_batch()
    net.similarities["itc"] = VectorSimilarity(**heads)
    with_term, without = (Ranking(intra_text=w)(View(net, b)).value for w in (1.0, 0.0))
    texts = net.similarities["itc"].embed_text(View(net, b).text)
    near = texts @ texts.T
    wanted = 0.0
    for i in range(6):
        twin = float(near[i, i ^ 1])
        wanted += max(0.0, max(0.2 + float(near[i, j]) - twin for j in range(6) if j // 2 != i // 2))
    assert abs(float(with_term - without) - wanted / 6) < 1e-5


def test_two_passes_pay_for_the_hardest_alone() -> None:
    with pytest.raises(ValueError, match="hardest"):
        Ranking(two_pass=True, negatives="all")
    with pytest.raises(ValueError, match="hardest"):
        PairLoss(two_pass=True)
    with pytest.raises(ValueError, match="pseudo"):
        PairLoss(two_pass=True, pairs="hardest", pseudo=0.1)
