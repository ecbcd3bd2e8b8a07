"""Noisy correspondence: the two heaps of losses, soft margins, who trusts whom; and pairs shuffled on purpose."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.test_ranking import model, some_batch
from vlp.data.mismatched import mismatched
from vlp.objectives.correspondence import NoisyCorrespondence, predicted_worth, soft_margin
from vlp.objectives.mixture import clean_probability
from vlp.objectives.ranking import violations
from vlp.similarity.ensemble import Ensemble
from vlp.types import Batch, Regions
from vlp.view import View


def slow_probability(values: list[float], rounds: int) -> list[float]:
    """Expectation maximisation, point by point."""
    low, high = min(values), max(values)
    x = [(v - low) / (high - low) for v in values]
    mean, count = sum(x) / len(x), len(x)
    order = sorted(x)
    means = [order[0] + 0.0, order[-1] + 0.0]
    for k, q in enumerate((0.1, 0.9)):
        place = q * (count - 1)
        below = int(place)
        above = min(below + 1, count - 1)
        means[k] = order[below] + (place - below) * (order[above] - order[below])
    var = [sum((v - mean) ** 2 for v in x) / (count - 1) + 5e-4] * 2
    share = [0.5, 0.5]
    for step in range(rounds):
        post = []
        for v in x:
            joint = [
                share[k] * math.exp(-((v - means[k]) ** 2) / (2 * var[k])) / math.sqrt(2 * math.pi * var[k])
                for k in range(2)
            ]
            post.append([j / sum(joint) for j in joint])
        if step == rounds - 1:
            break
        for k in range(2):
            weight = sum(p[k] for p in post)
            means[k] = sum(p[k] * v for p, v in zip(post, x, strict=True)) / weight
            var[k] = sum(p[k] * (v - means[k]) ** 2 for p, v in zip(post, x, strict=True)) / weight + 5e-4
            share[k] = weight / count
    best = 0 if means[0] < means[1] else 1
    return [p[best] for p in post]


def test_the_mixture_is_fitted_by_expectation_maximisation() -> None:
    g = torch.Generator().manual_seed(0)
    losses = torch.cat([0.3 + 0.1 * torch.randn(40, generator=g), 1.0 + 0.2 * torch.randn(30, generator=g)]).double()
    found = clean_probability(losses, rounds=4, tolerance=0.0)
    torch.testing.assert_close(found, torch.tensor(slow_probability(losses.tolist(), 4), dtype=torch.float64))
    final = clean_probability(losses)
    assert final[:40].mean() > 0.9
    assert final[40:].mean() < 0.1


def test_equal_losses_tell_nothing() -> None:
    assert clean_probability(torch.full((5,), 0.3)).tolist() == [0.5] * 5


def test_margins_grow_from_nothing_to_the_whole() -> None:
    wanted = torch.tensor([0.0, 0.2 * (math.sqrt(10) - 1) / 9, 0.2])
    torch.testing.assert_close(soft_margin(torch.tensor([0.0, 0.5, 1.0]), 0.2), wanted)


def test_worth_is_what_the_margin_leaves() -> None:
    g = torch.Generator().manual_seed(0)
    to_text, to_image = torch.rand(4, 4, generator=g), torch.rand(4, 4, generator=g)
    own = to_text.diagonal()
    left = []
    for i in range(4):
        costs = [sum(max(0.0, 0.2 + float(s) - float(own[i])) for s in m[i]) / 4 for m in (to_text, to_image)]
        left.append(min(max(0.2 - sum(costs) / 2, 0.0), 0.2))
    wanted = [min(x / max(left), 1.0) if max(left) else 0.0 for x in left]
    torch.testing.assert_close(predicted_worth(to_text, to_image, own, 0.2), torch.tensor(wanted))


def two_networks() -> torch.nn.Module:
    net, other = model(), model()
    with torch.no_grad():
        for p in other.similarities["match"].parameters():
            p.add_(0.1)
    net.similarities["match"] = Ensemble(parts=[net.similarities["match"], other.similarities["match"]])
    return net


def test_an_ensemble_is_the_mean_of_its_parts() -> None:
    net, view = two_networks(), View(two_networks(), some_batch())
    both = net.similarities["match"]
    parts = [part.scores(view.image, view.text) for part in both.parts]
    torch.testing.assert_close(both.scores(view.image, view.text), (parts[0] + parts[1]) / 2)


def test_each_network_is_told_by_the_other() -> None:
    net, b = two_networks(), some_batch()
    loss = NoisyCorrespondence(captions=6, epoch_steps=10, warmup_steps=0, doubtful_steps=100)
    loss.clean[0] = torch.tensor([1.0, 0.9, 0.8, 0.1, 0.2, 0.3])
    loss.clean[1] = torch.tensor([0.1, 0.9, 0.8, 0.7, 0.2, 1.0])
    view = View(net, b)
    scores = [part.scores(view.image, view.text).detach() for part in net.similarities["match"].parts]
    ids, row = b.image_id, b.image_row
    wanted = 0.0
    for number, matrix in enumerate(scores):
        to_text, to_image = matrix[row], matrix.T
        own, clean = to_text.diagonal(), loss.clean[1 - number]
        worth = clean + (1 - clean) * predicted_worth(to_text, to_image, own, 0.2)
        margins = 0.2 * (10**worth - 1) / 9
        texts, images = ids[:, None] != ids, ids[:, None] != torch.arange(3)
        rows = violations(to_text, own, texts, margins) + violations(to_image, own, images, margins)
        wanted += float((rows * (clean > 0.5)).mean())
    assert abs(float(loss(View(net, b)).value.detach()) - wanted) < 1e-5
    loss.steps += 100  # now the doubtful count by what both predict
    assert float(loss(View(net, b)).value.detach()) > wanted


def test_losses_are_remembered_and_divided_at_the_end_of_an_epoch() -> None:
    net, b = two_networks(), some_batch()
    loss = NoisyCorrespondence(captions=8, epoch_steps=2, warmup_steps=2, doubtful_steps=10)
    loss(View(net, b))
    loss.discard_step()
    loss.after_step()
    assert loss.losses.isnan().all()
    loss(View(net, b))
    loss.after_step()
    assert loss.losses[:, 6:].isnan().all()
    torch.testing.assert_close(loss.clean[0, :6], clean_probability(loss.losses[0, :6]))
    assert (loss.clean[:, 6:] == 1).all()
    with pytest.raises(ValueError, match="caption id 5"):
        NoisyCorrespondence(captions=5, epoch_steps=1, warmup_steps=0, doubtful_steps=0)(View(net, b))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.floats(0, 1), st.integers(0, 1000))
def test_a_share_of_the_captions_changes_hands(count: int, share: float, seed: int) -> None:
    owners = torch.arange(count)
    dealt = mismatched(owners, share, seed)
    assert dealt.sort().values.tolist() == owners.tolist()
    assert int((dealt != owners).sum()) <= round(share * count)
    assert torch.equal(dealt, mismatched(owners, share, seed))
    with pytest.raises(ValueError, match="not between"):
        mismatched(owners, 1.2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1))
def test_views_of_a_photograph_are_dealt_together(count: int, captions: int, views: int, share: float) -> None:
    owners = torch.arange(count * views).repeat_interleave(captions)  # view by view, each with all captions
    dealt = mismatched(owners, share, views=views).view(count, views, captions)
    assert torch.equal(dealt % views, owners.view(count, views, captions) % views)
    assert (dealt // views == dealt[:, :1] // views).all()
    alone = mismatched(torch.arange(count).repeat_interleave(captions), share).view(count, captions)
    assert torch.equal(dealt[:, 0] // views, alone)


def test_pictures_that_are_no_views_are_refused() -> None:
    with pytest.raises(ValueError, match="not 2 neighbouring views"):
        mismatched(torch.tensor([0, 0, 1]), 0.4, views=2)


@pytest.mark.slow
def test_shuffled_pairs_are_found_out() -> None:
    """Pictures of three looks of five values each, captions that name them, 40 % of them at wrong pictures: after the
    training the networks trust the right pairs and few of the others."""
    torch.manual_seed(0)
    looks = torch.cartesian_prod(*[torch.arange(5)] * 3)[torch.randperm(125)[:120]] + 5 * torch.arange(3)
    count, features, words = len(looks), torch.randn(15, 12)[looks], looks + 6
    owners, net = mismatched(torch.arange(count), 0.4, seed=1), two_networks()
    loss = NoisyCorrespondence(captions=count, epoch_steps=30, warmup_steps=90, doubtful_steps=1000)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(180):
        captions = torch.randperm(count)[:40]
        pictures, mask = owners[captions], torch.ones(40, 3, dtype=torch.bool)
        found = Regions(features[pictures], torch.zeros(40, 3, 4), torch.zeros(40, 3, 2), mask)
        b = Batch(words[captions], mask, torch.zeros(40, 3).long(), pictures, captions, regions=found)
        optimizer.zero_grad()
        loss(View(net, b)).value.backward()
        optimizer.step()
        loss.after_step()
    right, trusted = owners == torch.arange(count), (loss.clean > 0.5).float().mean(0)
    assert trusted[right].mean() > trusted[~right].mean() + 0.4
