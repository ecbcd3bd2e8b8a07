"""The order contract: a pure function of seed, epoch and position, whatever the ranks, workers and restarts."""

import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.draws import draws_at
from vlp.data.order import RUN, permuted, positions, sample_at, unit_at


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


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**63), st.integers(0, 5))
def test_runs_change_places_by_a_bijection(count: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(i, count, seed, epoch) for i in range(count)) == list(range(count))


def test_bijections_are_spread_over_all_orders() -> None:
    drawn = Counter(tuple(permuted(i, 4, seed, 0) for i in range(4)) for seed in range(4800))
    assert len(drawn) == 24
    chi_square = sum((n - 200) ** 2 / 200 for n in drawn.values())
    assert chi_square < 49.7  # 23 degrees of freedom, one in a thousand


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9 * RUN), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_windows_give_permutations_of_whole_runs(count: int, block: int, runs: int, epoch: int) -> None:
    window = runs * RUN
    seen = [sample_at(count, 7, p, block, window)[1] for p in range(epoch * count, (epoch + 1) * count)]
    assert Counter(seen) == Counter(range(count))
    units = [unit_at(count, 7, epoch, place, window) for place in range(count)]
    windows = max(1, count // window)
    for number in range(windows):
        part = units[number * window : (number + 1) * window if number + 1 < windows else count]
        touched = Counter(unit // RUN for unit in part)
        assert all(
            inside == min(RUN, count - run * RUN) for run, inside in touched.items()
        )  # nothing is left for later


def test_a_window_reads_few_places_and_mixes_them() -> None:
    count, window = 100 * RUN, 10 * RUN
    units = [unit_at(count, 0, 0, place, window) for place in range(window)]
    runs = [unit // RUN for unit in units]
    assert len(set(runs)) == 10
    assert max(set(runs)) - min(set(runs)) > 30  # from all over the set
    neighbours = sum(a == b for a, b in zip(runs, runs[1:], strict=False)) / window
    assert 0.05 < neighbours < 0.15  # one in ten by chance


def test_a_position_far_away_needs_no_memory() -> None:
    tracemalloc.start()
    assert 0 <= sample_at(10**10, 0, 10**17 + 3)[1] < 10**10
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4), st.integers(0, 2**63))
def test_draws_hang_on_their_numbers_alone(numbers: list[int], other: int) -> None:
    one = draws_at(*numbers).random(5).tolist()
    draws_at(other).integers(7, dtype=np.uint32)  # half a word is left over
    assert draws_at(*numbers).random(5).tolist() == one
    fresh = np.random.Generator(np.random.Philox(key=draws_at(*numbers).bit_generator.state["state"]["key"]))
    assert fresh.random(5).tolist() == one


def test_draws_of_neighbours_have_nothing_in_common() -> None:
    first = np.array(
        [draws_at(seed, epoch, pair).random() for seed in (0, 1) for epoch in (0, 1) for pair in range(900)]
    )
    assert len(set(first.tolist())) == 3600
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.06
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 180) ** 2 / 180).sum() < 43.8  # 19 degrees of freedom, one in a thousand
