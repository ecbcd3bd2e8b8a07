"""Learned poolings against slow readings of their papers, row by row, without padding."""

import math

import torch

from tests.streams import present, stream
from vlp.pooling.gated import GatedPool
from vlp.pooling.gpo import GPO
from vlp.pooling.pie import PIE, GaussianPool
from vlp.pooling.recurrent import RecurrentPool
from vlp.pooling.tokens import MaxPool


def test_gpo_weighs_ranks() -> None:
    torch.manual_seed(0)
    pool, some = GPO(code_width=6, hidden=5).double(), stream(4, 7, 3, seed=1)
    for i in range(4):
        tokens = present(some, i)
        n = len(tokens)
        code = torch.zeros(n, 6, dtype=torch.float64)
        for p in range(n):
            for k in range(3):
                angle = p / 10000 ** (2 * k / 6)
                code[p, 2 * k], code[p, 2 * k + 1] = math.sin(angle), math.cos(angle)
        states = pool.gru(code[None])[0][0]
        theta = ((states[:, :5] + states[:, 5:]) / 2 @ pool.weigh.weight[0] / 0.1).softmax(0)
        wanted = torch.zeros(3, dtype=torch.float64)
        for d in range(3):
            for rank, value in enumerate(sorted(tokens[:, d].tolist(), reverse=True)):
                wanted[d] += theta[rank] * value
        torch.testing.assert_close(pool(some)[i], wanted)


def test_gpo_can_be_mean_and_max() -> None:
    pool, some = GPO().double(), stream(3, 5, 4, seed=2)
    torch.nn.init.zeros_(pool.weigh.weight)
    means = torch.stack([present(some, i).mean(0) for i in range(3)])
    torch.testing.assert_close(pool(some), means)
    torch.testing.assert_close(MaxPool()(some), torch.stack([present(some, i).max(0).values for i in range(3)]))


def test_gated_pooling_is_the_papers() -> None:
    torch.manual_seed(0)
    pool, some = GatedPool(width=6, dropout=0.0).double(), stream(4, 5, 6, seed=3)
    for i in range(4):
        tokens = present(some, i)
        mean = torch.tanh(tokens.mean(0) @ pool.whole.weight.T + pool.whole.bias)
        scores = [
            float(((torch.tanh(pool.local.weight @ x + pool.local.bias) * mean) @ pool.weigh.weight[0]).detach())
            for x in tokens
        ]
        total = sum(math.exp(s) for s in scores)
        wanted = sum(math.exp(s) / total * x for s, x in zip(scores, tokens, strict=True))
        torch.testing.assert_close(pool(some)[i], wanted)


def test_pie_is_the_papers() -> None:
    torch.manual_seed(0)
    pool, some = PIE(width=6, embed_dim=5, count=3).double(), stream(4, 5, 6, seed=4)
    out = pool(some)
    assert out.mask.all()
    for i in range(4):
        tokens = present(some, i)
        whole = pool.whole.weight @ tokens.mean(0) + pool.whole.bias
        for k in range(3):
            looks = torch.stack([pool.heads.weight[k] @ torch.tanh(pool.look.weight @ x) for x in tokens]).softmax(0)
            read = (looks[:, None] * tokens).sum(0)
            residual = torch.sigmoid(pool.residual.weight @ read + pool.residual.bias)
            torch.testing.assert_close(pool.residuals(some)[i, k], residual)
            summed = whole + residual
            normal = (summed - summed.mean()) / (summed.var(unbiased=False) + 1e-5).sqrt()
            normal = normal * pool.norm.weight + pool.norm.bias
            torch.testing.assert_close(out.tokens[i, k], normal / normal.norm())


def test_a_gaussian_has_a_unit_mean_and_a_free_spread() -> None:
    torch.manual_seed(0)
    pool, some = GaussianPool(width=6, embed_dim=5).double(), stream(3, 5, 6, seed=5)
    out = pool(some).tokens
    torch.testing.assert_close(out[:, 0], pool.mean(some).tokens[:, 0])
    for i in range(3):
        tokens, spread = present(some, i), pool.spread
        looks = (torch.tanh(tokens @ spread.look.weight.T) @ spread.heads.weight[0]).softmax(0)
        read = (looks[:, None] * tokens).sum(0)
        wanted = spread.whole(tokens.mean(0)) + spread.residual.weight @ read + spread.residual.bias
        torch.testing.assert_close(out[i, 1], wanted)


def test_a_recurrent_pool_ends_with_the_last_token_present() -> None:
    torch.manual_seed(0)
    pool, some = RecurrentPool(width=6, embed_dim=4).double(), stream(3, 5, 6, seed=6)
    for i in range(3):
        torch.testing.assert_close(pool(some)[i], pool.gru(present(some, i)[None])[0][0, -1])
