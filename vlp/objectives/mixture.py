"""Two Gaussians on a line: which of the losses are those of right pairs? (NCR's co-divide, Huang 2021, section 3.2)"""

import math

import torch
from torch import Tensor


def clean_probability(losses: Tensor, rounds: int = 10, tolerance: float = 1e-2, floor: float = 5e-4) -> Tensor:
    """(T,) losses -> (T,) probability of the Gaussian of the lower mean, fitted by expectation maximisation.

    Losses are brought to [0, 1] first; `floor` is added to the variances, as scikit-learn's reg_covar. Equal losses
    tell nothing: all get one half.
    """
    spread = losses.max() - losses.min()
    if not float(spread) > 0:
        return torch.full_like(losses, 0.5)
    values = ((losses - losses.min()) / spread).double()
    means = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=values.dtype, device=values.device))
    variances = values.var().expand(2) + floor
    shares, before = values.new_full((2,), 0.5), -math.inf
    for _ in range(rounds):
        log_joint = log_normal(values, means, variances) + shares.log()
        now = float(torch.logsumexp(log_joint, 1).mean())
        posterior = log_joint.softmax(1)
        if abs(now - before) < tolerance:
            break
        before, weight = now, posterior.sum(0).clamp(min=1e-9)
        means = (posterior * values[:, None]).sum(0) / weight
        variances = (posterior * (values[:, None] - means).square()).sum(0) / weight + floor
        shares = weight / weight.sum()
    return posterior[:, int(means.argmin())].to(losses.dtype)


def log_normal(values: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """(T,), (2,), (2,) -> (T, 2) log densities."""
    return -0.5 * ((values[:, None] - means).square() / variances + (2 * math.pi * variances).log())
