"""Losses over pairs, sets and identities against slow readings of their papers."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.parts import VOCAB, batch
from vlp.layers.chain import Chain
from vlp.model import VLModel
from vlp.objectives.adversary import ModalityAdversary, reversed_gradient
from vlp.objectives.angular import Angular, angular_costs, angular_loss
from vlp.objectives.identity import Identity, identity_loss
from vlp.objectives.pair_loss import PairLoss, all_pairs_loss, hardest_pairs_loss, pseudo_positive_loss
from vlp.objectives.paths import path_loss
from vlp.objectives.projection_matching import ProjectionMatching, projection_loss
from vlp.objectives.ranking import Ranking
from vlp.objectives.spread import bottleneck_loss, discrepancy_loss, diversity_loss
from vlp.pooling.tokens import MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.similarity.vector import VectorSimilarity
from vlp.text.recurrent import RecurrentText
from vlp.view import View
from vlp.vision.patches import LinearPatches


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def p(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_pairs_one_by_one() -> None:
    scores, positive = 3 * random(4, 6), random(4, 6, seed=1) > 0.8
    positive[range(4), range(4)] = True
    own = scores.diagonal()
    every, hardest, pseudo = (
        all_pairs_loss(scores, positive),
        hardest_pairs_loss(scores, own, ~positive),
        pseudo_positive_loss(scores, own, ~positive),
    )
    for i in range(4):
        row, mine = scores[i].tolist(), positive[i].tolist()
        wanted = [-math.log(p(s)) if y else -math.log(1 - p(s)) for s, y in zip(row, mine, strict=True)]
        assert abs(float(every[i]) - sum(wanted) / 6) < 1e-9
        worst = max(s for s, y in zip(row, mine, strict=True) if not y)
        assert abs(float(hardest[i]) + math.log(p(row[i])) + math.log(1 - p(worst))) < 1e-9
        relabelled = [y or s >= row[i] for s, y in zip(row, mine, strict=True)]
        wanted = [-math.log(p(s)) if y else -math.log(1 - p(s)) for s, y in zip(row, relabelled, strict=True)]
        assert abs(float(pseudo[i]) - sum(wanted) / 6) < 1e-9


def test_a_pair_without_rivals_costs_itself_alone() -> None:
    scores, nobody = random(2, 2), torch.zeros(2, 2, dtype=torch.bool)
    torch.testing.assert_close(
        hardest_pairs_loss(scores, scores.diagonal(), nobody), nn.functional.softplus(-scores.diagonal())
    )


def test_projection_matching_is_a_kl_divergence() -> None:
    scores, positive = random(4, 5), random(4, 5, seed=1) > 0.5
    positive[range(4), range(4)] = True
    total = 0.0
    for row, mine in zip(scores.tolist(), positive.tolist(), strict=True):
        norm = sum(math.exp(s) for s in row)
        for s, y in zip(row, mine, strict=True):
            q = y / sum(mine)
            total += math.exp(s) / norm * math.log(math.exp(s) / norm / (q + 1e-8))
    assert abs(float(projection_loss(scores, positive)) - total / 4) < 1e-9


def test_robust_clustering_bounds_the_gradient_where_cross_entropy_does_not() -> None:
    logits, target = random(5, 7), torch.tensor([0, 3, 6, 2, 2])
    shares = logits.softmax(1)[range(5), target]
    torch.testing.assert_close(identity_loss(logits, target, "robust"), (1 - shares).log().mean())
    torch.testing.assert_close(identity_loss(logits, target, "cross_entropy"), -shares.log().mean())


def test_the_angle_at_the_hardest_rival() -> None:
    unit = [nn.functional.normalize(random(4, 5, seed=s), dim=1) for s in range(3)]
    costs, rival = angular_costs(*unit, degrees=40.0), random(4, 4, seed=4) > -0.3
    rival[0] = False
    found = angular_loss(costs, rival)
    t = math.tan(math.radians(40.0)) ** 2
    for i in range(4):
        x, y = unit[0][i], unit[1][i]
        values = [4 * t * float((x + y) @ r) - 2 * (1 + t) * float(x @ y) for r in unit[2]]
        worst = [math.log(1 + math.exp(v)) for v, other in zip(values, rival[i].tolist(), strict=True) if other]
        assert abs(float(found[i]) - max(worst, default=0.0)) < 1e-9


def test_diversity_discrepancy_and_bottleneck() -> None:
    sets = random(3, 4, 5)
    total = 0.0
    for row in nn.functional.normalize(sets, dim=2):
        off = [float(a @ b) ** 2 for i, a in enumerate(row) for j, b in enumerate(row) if i != j]
        total += math.sqrt(sum(off)) / 16
    assert abs(float(diversity_loss(sets)) - total / 3) < 1e-6
    one, two = random(4, 3), random(5, 3, seed=1)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.exp(-0.5 * float((x - y) @ (x - y))) for x in a for y in b) / len(a) / len(b)

    wanted = kernel(one, one) + kernel(two, two) - 2 * kernel(one, two)
    assert abs(float(discrepancy_loss(one, two)) - wanted) < 1e-9
    mean, log_variance = random(4, 3), random(4, 3, seed=1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(bottleneck_loss(mean, log_variance), kl)


def model() -> VLModel:
    torch.manual_seed(0)
    heads = {s: Chain(parts=[TokenAdapter(width=12, embed_dim=8), MeanPool()]) for s in ("image", "text")}
    return VLModel(
        vision=LinearPatches(image_size=32, patch=16, width=12),
        text=RecurrentText(vocab_size=VOCAB, word_width=6, width=12),
        similarities={"itc": VectorSimilarity(**heads, unit=False)},
    )


def test_projection_matching_shares_its_mass_among_a_pictures_captions() -> None:
    net, b = model(), batch(size=6)
    similarity, view = net.similarities["itc"], View(net, b)
    image, text = similarity.embed_image(view.image), similarity.embed_text(view.text)
    positive = b.image_id[:, None] == b.image_id
    wanted = projection_loss(image @ nn.functional.normalize(text, dim=1).T, positive)
    wanted = wanted + projection_loss(text @ nn.functional.normalize(image, dim=1).T, positive)
    torch.testing.assert_close(ProjectionMatching()(View(net, b)).value, wanted)


def test_pairs_of_a_picture_are_all_positives() -> None:
    net, b = model(), batch(size=6)
    scores = net.similarities["itc"].scores(View(net, b).image, View(net, b).text)
    positive = b.image_id[:, None] == b.image_id
    wanted = (all_pairs_loss(scores, positive).mean() + all_pairs_loss(scores.T, positive).mean()) / 2
    torch.testing.assert_close(PairLoss(similarity="itc")(View(net, b)).value, wanted)


def test_the_first_steps_of_a_pair_loss_rank() -> None:
    net, b = model(), batch(size=6)
    loss, hardest = (PairLoss(similarity="itc", pairs="hardest", easy_steps=easy).train() for easy in (1, 0))
    ranked = Ranking(similarity="itc", negatives="all", squash=True)(View(net, b)).value
    of_hardest = hardest(View(net, b)).value
    torch.testing.assert_close(loss(View(net, b)).value, ranked)
    assert torch.equal(loss.eval()(View(net, b)).value, of_hardest)  # a loss that is read is the loss itself
    loss.train().after_step()
    assert torch.equal(loss(View(net, b)).value, of_hardest)


@pytest.mark.parametrize("unit", ["neither", "classes", "both"])
def test_classes_are_compared_as_the_papers_compare_them(unit: Any) -> None:
    """Dual-path: w . v. TIMAM: w . v with |w| = 1, the length of v its temperature. MRL: both of length 1."""
    classes, vectors = random(5, 8), random(4, 8, seed=1)
    objective = Identity(width=8, classes=5, unit=unit, temperature=0.5).double()
    objective.centres.data = classes
    found = objective.logits(vectors).detach()
    for i, v in enumerate(vectors):
        for j, w in enumerate(classes):
            length = {"neither": 1.0, "classes": float(w.norm()), "both": float(w.norm() * v.norm())}[unit]
            assert abs(float(found[i, j]) - float(v @ w) / length / 0.5) < 1e-9


def test_an_image_without_a_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="image id 2 has no class"):
        Identity(width=8, classes=2)(View(model(), batch(size=6)))


def test_the_adversary_and_the_heads_pull_opposite_ways() -> None:
    vectors = random(4, 3).requires_grad_()
    reversed_gradient(vectors, 0.5).square().sum().backward()
    torch.testing.assert_close(vectors.grad, -vectors.detach())
    net, b = model(), batch(size=6)
    adversary = ModalityAdversary(width=8)
    view = View(net, b)
    both = torch.cat([net.similarities["itc"].embed_image(view.image), net.similarities["itc"].embed_text(view.text)])
    logits = adversary.discriminator(both)[:, 0].tolist()
    wanted = sum(-math.log(p(s if i < 6 else -s)) for i, s in enumerate(logits)) / 12
    assert abs(float(adversary(View(net, b)).value) - wanted) < 1e-5


def test_the_angular_loss_is_annealed_by_steps() -> None:
    net, b, loss = model(), batch(size=6), Angular(decay_steps=2)
    first = loss(View(net, b)).value
    loss.after_step()
    torch.testing.assert_close(loss(View(net, b)).value, first)
    loss.after_step()
    torch.testing.assert_close(loss(View(net, b)).value, first / 10)


def test_paths_follow_meanings() -> None:
    paths, meanings = random(4, 6), random(4, 3, seed=1)
    total = 0.0
    for i in range(4):
        for j in range(4):
            one = float(nn.functional.cosine_similarity(paths[i], paths[j], dim=0))
            total += (one - float(nn.functional.cosine_similarity(meanings[i], meanings[j], dim=0))) ** 2
    assert abs(float(path_loss(paths, meanings, paths, meanings)) - total / 4) < 1e-9
