"""The matching head: a fused pair's summary to match or no match (ITM). Pairwise, so it re-ranks."""

from typing import cast

import torch
from torch import Tensor, nn


class MatchingHead(nn.Module):
    """(R, D) -> (R, 2) logits, class 1 = match."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, 2)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, summary: Tensor) -> Tensor:
        """(R, D) -> (R, 2), fp32 under autocast too: logits rounded to bf16 would be full of ties."""
        with torch.autocast(summary.device.type, enabled=False):
            return cast(Tensor, self.classifier(summary.to(self.classifier.weight.dtype)).float())

    def log_odds(self, summary: Tensor) -> Tensor:
        """(R,) log p(match) - log p(no match): never saturates, so it can rank."""
        logits = self(summary)
        odds: Tensor = logits[:, 1] - logits[:, 0]
        return odds
