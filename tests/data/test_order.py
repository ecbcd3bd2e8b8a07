"""The order contract: a pure function of seed, epoch and position, whatever the ranks, workers and restarts."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.order import positions, sample_at


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_each_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    seen = [sample_at(count, seed, p) for p in range(epoch * count, (epoch + 1) * count)]
    assert {e for e, _ in seen} == {epoch}
    assert Counter(s for _, s in seen) == Counter(range(count))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 3))
def test_blocks_stay_together_and_each_epoch_is_a_permutation(count: int, block: int, epoch: int) -> None:
    seen = [sample_at(count, 1, p, block)[1] for p in range(epoch * count, (epoch + 1) * count)]
    assert Counter(seen) == Counter(range(count))
    for start in range(0, count - count % block, block):
        first = seen[start]
        assert first % block == 0
        assert seen[start : start + block] == list(range(first, first + block))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(sample_at(50, s, e * 50 + p)[1] for p in range(50)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2]), st.integers(0, 7))
def test_ranks_and_micro_steps_cut_the_same_global_batch(world: int, accumulate: int, step: int) -> None:
    got = [
        p
        for micro in range(accumulate)
        for rank in range(world)
        for p in positions(step, micro, batch_size=24, accumulate=accumulate, rank=rank, world=world)
    ]
    assert got == list(range(step * 24, step * 24 + 24))
