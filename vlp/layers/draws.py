"""Every random draw of an objective: one place, so that a law can hold the draws fixed and compare the rest.

Within a training loop a draw is a hash of (seed, step, how many draws came before, row of the global batch, place in
the row): the same pair gets the same masks however many ranks and micro steps share the batch, on CPUs and GPUs alike.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Rows:
    """Which rows of which step the draws are for, as long as torch's generator is at the seed that was set with it."""

    seed: int
    first: int
    generator: int
    calls: int = 0


_rows: _Rows | None = None


def for_rows(seed: int, first: int) -> None:
    """From here on the first row drawn for is row `first` of the step that `seed` stands for, until torch is seeded
    anew. Call it after seeding torch."""
    global _rows
    _rows = _Rows(seed, first, torch.initial_seed())


def uniform(*shape: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of a shape whose first dimension counts rows, 24 bits each."""
    rows = _rows
    if rows is None or rows.generator != torch.initial_seed():
        return torch.rand(shape, device=device)  # no loop is running: the generator that the caller seeded
    rows.calls += 1
    salt = _signed(rows.seed + rows.calls * 0x9E3779B97F4A7C15)
    keys = scrambled(scrambled(torch.arange(rows.first, rows.first + shape[0], device=device)) ^ salt)
    places = torch.arange(math.prod(shape[1:]), device=device)
    numbers = scrambled(keys[:, None] + places)
    return (_shifted(numbers, 40).float() * 2.0**-24).view(shape)


def scrambled(numbers: Tensor) -> Tensor:
    """A 64-bit hash of each int64: the finaliser of SplitMix64 (Steele 2014)."""
    numbers = numbers + _signed(0x9E3779B97F4A7C15)
    numbers = (numbers ^ _shifted(numbers, 30)) * _signed(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ _shifted(numbers, 27)) * _signed(0x94D049BB133111EB)
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """int64 shifted to the right without its sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 with the low 64 bits of a number."""
    return ((number + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def some(mask: Tensor, probability: float) -> Tensor:
    """(B, N) bool: each present place of `mask` with `probability`, and at least one where any is present."""
    draw = uniform(*mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    first = draw == draw.min(dim=1, keepdim=True).values
    return ((draw < probability) | first) & mask
