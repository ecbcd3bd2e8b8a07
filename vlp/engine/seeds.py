"""Random draws as a function of where they happen, so that a resumed run needs no generator state.

Dropout comes from torch's global generator, seeded anew before every micro step from (seed, step, micro step, rank);
masks and drawn negatives are a function of (seed, step, row of the global batch), whatever the number of ranks and
micro steps (`layers/draws.py`). A run that is stopped and resumed, or one whose evaluation drew random numbers in
between, therefore draws what an unbroken run draws; nothing about generators is in a checkpoint.
"""

import hashlib

import torch

from vlp.layers import draws


def step_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """A 63-bit hash of the place of one micro step; neighbouring places give unrelated numbers."""
    digest = hashlib.blake2b(f"{seed}:{step}:{micro}:{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_micro_step(seed: int, step: int, micro: int, rank: int, world: int, pairs: int) -> None:
    """Seed torch's global generators, of the CPU and of the GPU in use, and the draws of objectives for one micro step
    of `pairs` pairs a rank."""
    value = step_seed(seed, step, micro, rank)
    # torch.manual_seed would format a stack trace for every kind of device there is: a millisecond a step.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)
    draws.for_rows(step_seed(seed, step, 0, 0), (micro * world + rank) * pairs)  # as `data.order.positions` cuts a step
