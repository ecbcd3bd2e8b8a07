"""Learned tokens that an encoder reads beside its own: prompt tuning of a frozen backbone.

In front of a caption they are CoOp's context (Zhou 2022, section 3.2), beside the patches VPT's shallow prompts (Jia
2022, equations 4 and 5). They are read and then dropped, so a stream is as long as without them and every objective,
fusion and similarity goes with it.
"""

import torch
from torch import Tensor, nn

from vlp.layers.packing import Packing


class Prompts(nn.Module):
    """`count` tokens of `width`, the same for every row."""

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, width) * 0.02)

    def beside(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N + count, D), the prompts last."""
        return torch.cat([tokens, self.tokens.to(tokens.dtype).expand(len(tokens), -1, -1)], dim=1)

    def before(self, packed: Tensor, rows: Packing, mask: Tensor) -> tuple[Tensor, Packing]:
        """(T, D) of a (B, L) mask -> (T + B count, D), the prompts first in every row, and its packing."""
        tokens = rows.restore(packed, mask.shape[1])
        joined = torch.cat([self.tokens.to(packed.dtype).expand(len(mask), -1, -1), tokens], dim=1)
        present = torch.cat([mask.new_ones(len(mask), len(self.tokens)), mask], dim=1)
        longer = Packing.of(present)
        return longer.pack(joined), longer

    def without(self, packed: Tensor, rows: Packing, length: int) -> Tensor:
        """(T + B count, D) -> (B, L, D): what `before` put in front left out."""
        return rows.restore(packed, len(self.tokens) + length)[:, len(self.tokens) :]


def own_prompts(module: nn.Module) -> dict[str, Tensor]:
    """The prompts of a module by their names in its state: a checkpoint from before the tuning has none."""
    parts = {name: part for name, part in module.named_modules() if isinstance(part, Prompts)}
    return {f"{name}.tokens": part.tokens.detach() for name, part in parts.items()}
