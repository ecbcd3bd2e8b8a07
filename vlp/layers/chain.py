"""Parts one after another, each reading what the one before gave."""

from collections.abc import Sequence
from typing import Any

from torch import nn


class Chain(nn.Module):
    """`Chain(parts=[tokens, reasoning, pooling])` is a head from Stream to Stream, or to vectors where it ends in a
    pooling."""

    def __init__(self, *, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, value: Any) -> Any:
        """What the last part gives."""
        for part in self.parts:
            value = part(value)
        return value

    def before_last(self, value: Any) -> Any:
        """What the last part reads."""
        for part in list(self.parts)[:-1]:
            value = part(value)
        return value
