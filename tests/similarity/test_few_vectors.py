"""Distances, orders, sets and match probabilities against slow readings of their papers."""

import math

import torch

from vlp.similarity.few_vectors import BestOfSets, Euclidean, MatchProbability, OneToken, Order
from vlp.similarity.vector import VectorSimilarity, one_token
from vlp.types import Stream


def vectors(rows: int, *shape: int, seed: int) -> Stream:
    tokens = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def test_distances_and_orders_pair_by_pair() -> None:
    image, text = vectors(3, 1, 5, seed=1), vectors(4, 1, 5, seed=2)
    distance, order = Euclidean(eps=1e-4)(image, text), Order(width=5)(image, text)
    for b in range(3):
        for c in range(4):
            v, t = image.tokens[b, 0].tolist(), text.tokens[c, 0].tolist()
            apart = math.sqrt(sum((x - y) ** 2 for x, y in zip(v, t, strict=True)) + 1e-4)
            above = math.sqrt(sum(max(0.0, abs(y) - abs(x)) ** 2 for x, y in zip(v, t, strict=True)))
            assert abs(float(distance[b, c]) + apart) < 1e-9
            assert abs(float(order[b, c]) + above) < 1e-6


def test_an_order_that_holds_scores_best_and_has_a_slope() -> None:
    small, large = vectors(1, 1, 4, seed=3), vectors(1, 1, 4, seed=3)
    large.tokens = (2 * large.tokens.abs()).requires_grad_()
    score = Order(width=4)(large, small)
    assert abs(float(score)) < 1e-5
    score.sum().backward()
    assert large.tokens.grad.isfinite().all()


def test_the_best_of_two_sets() -> None:
    image, text = vectors(3, 2, 5, seed=4), vectors(4, 3, 5, seed=5)
    found = BestOfSets()(image, text)
    for b in range(3):
        for c in range(4):
            best = max(float(v @ t) for v in image.tokens[b] for t in text.tokens[c])
            assert abs(float(found[b, c]) - best) < 1e-9


def test_the_match_probability_is_the_mean_over_all_pairs_of_samples() -> None:
    scorer = MatchProbability(samples=3, steepness=2.0, shift=1.5).double()
    image, text = vectors(2, 2, 4, seed=6), vectors(3, 2, 4, seed=7)
    torch.manual_seed(0)
    one, two = scorer.drawn(image.tokens), scorer.drawn(text.tokens)
    torch.manual_seed(0)
    found = torch.sigmoid(scorer(image, text))
    for b in range(2):
        for c in range(3):
            total = 0.0
            for z in one[b]:
                for y in two[c]:
                    x = -2.0 * float((z - y).norm()) + 1.5
                    total += math.exp(x) / (math.exp(x) + math.exp(-x))
            assert abs(float(found[b, c]) - total / 9) < 1e-6


def test_samples_have_the_deviation_of_the_head_and_evaluation_draws_none() -> None:
    scorer = MatchProbability(samples=4000)
    gaussians = torch.stack([torch.zeros(1, 3), torch.tensor([[-1.0, 0.0, 1.0]])], 1)
    torch.manual_seed(0)
    torch.testing.assert_close(
        scorer.drawn(gaussians).std(1)[0], torch.tensor([-1.0, 0.0, 1.0]).exp(), rtol=0.1, atol=0
    )
    assert torch.equal(scorer.eval().drawn(gaussians), gaussians[:, :1])


def test_log_odds_do_not_saturate() -> None:
    scorer = MatchProbability().eval()
    far = Stream(torch.tensor([[[40.0], [0.0]], [[60.0], [0.0]]]), torch.ones(2, 2, dtype=torch.bool))
    near = Stream(torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
    first, second = scorer(far, near)[:, 0].tolist()
    assert math.isfinite(second)
    assert first > second


def test_a_vector_similarity_is_the_product_of_what_an_index_holds() -> None:
    heads = {"image": MeanOfFirst(), "text": MeanOfFirst()}
    some = VectorSimilarity(**heads, temperature=0.1).double()
    image, text = vectors(3, 2, 5, seed=8), vectors(3, 4, 5, seed=9)
    product = some.scale() * some.embed_image(image) @ some.embed_text(text).T
    torch.testing.assert_close(some.scores(image, text), product)
    torch.testing.assert_close(some.token_scores(some.image_tokens(image), some.text_tokens(text)), product)
    torch.testing.assert_close(some.pairs(image, text), product.diagonal())
    torch.testing.assert_close(OneToken()(image.tokens[:, 0]).tokens[:, 0].norm(dim=1), torch.ones(3).double())
    assert one_token(image.tokens[:, 0]).mask.all()


class MeanOfFirst(torch.nn.Module):
    def forward(self, stream: Stream) -> torch.Tensor:
        return stream.tokens[:, :2].mean(1)
