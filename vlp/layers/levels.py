"""Which layers of an encoder a stream shows, side by side in each token."""

from collections.abc import Sequence


def check_levels(levels: Sequence[int], lowest: int, depth: int) -> tuple[int, ...]:
    """The levels of an encoder of `depth` layers. Raises ValueError unless they rise and end with its last layer."""
    chosen = tuple(levels)
    if chosen and (list(chosen) != sorted(set(chosen)) or chosen[0] < lowest or chosen[-1] != depth):
        raise ValueError(f"levels {chosen} must rise from {lowest} or above and end with the last layer, {depth}")
    return chosen
