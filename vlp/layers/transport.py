"""Optimal transport between two token sets by the inexact proximal point method (IPOT, Xie 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_cost(text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Tensor:
    """1 - cosine, (B, L, D) and (B, N, D) -> (B, L, N); 0 where either token is padding."""
    cost = 1 - F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).transpose(1, 2)
    return cost * (text_mask[:, :, None] & image_mask[:, None, :])


@torch.no_grad()
def ipot(
    cost: Tensor, text_mask: Tensor, image_mask: Tensor, *, beta: float = 0.5, iterations: int = 50, inner: int = 1
) -> Tensor:
    """Transport plan T (B, N, L) of `cost` (B, L, N), uniform over the tokens present.

    UNITER (Chen 2020, section 3.3) and ViLT (Kim 2021, section 4.1): proximal steps with kernel exp(-C / beta), each
    with `inner` Sinkhorn updates. fp32; no gradient flows through the plan.
    """
    text_pad, image_pad = ~text_mask, ~image_mask
    text_count = text_mask.sum(1, keepdim=True).float().clamp(min=1)  # (B, 1)
    image_count = image_mask.sum(1, keepdim=True).float().clamp(min=1)
    pair_mask = (image_mask[:, :, None] & text_mask[:, None, :]).float()  # (B, N, L)
    kernel = torch.exp(-cost.float().transpose(1, 2) / beta) * pair_mask
    plan = pair_mask
    sigma = text_mask.float() / text_count  # (B, L)
    for _ in range(iterations):
        step = kernel * plan
        for _ in range(inner):
            delta = 1 / (image_count * (step @ sigma[:, :, None]).squeeze(2) + 1e4 * image_pad)
            sigma = 1 / (text_count * (delta[:, None, :] @ step).squeeze(1) + 1e4 * text_pad)
        plan = delta[:, :, None] * step * sigma[:, None, :]
    return plan * pair_mask


def transport_distance(
    text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor, *, beta: float, iterations: int
) -> Tensor:
    """Cost of the cheapest transport of words onto patches, (B,). Gradient flows through the cost alone."""
    cost = cosine_cost(text, image, text_mask, image_mask)
    plan = ipot(cost.detach(), text_mask, image_mask, beta=beta, iterations=iterations)
    return (cost * plan.transpose(1, 2)).sum((1, 2))
