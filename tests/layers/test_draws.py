"""Draws of objectives: SplitMix64's hash of their place, or torch's own generator where no loop runs."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.order import scramble
from vlp.layers import draws

LOOPS = 7_360_159_225_231_904_177  # a seed that no caller takes
CPU = torch.device("cpu")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_the_hash_is_that_of_the_order_of_samples(numbers: list[int]) -> None:
    found = [number % 2**64 for number in draws.scrambled(torch.tensor(numbers)).tolist()]
    assert found == [scramble(number % 2**64) for number in numbers]


def test_draws_are_uniform_and_neighbours_have_nothing_in_common() -> None:
    torch.manual_seed(LOOPS)
    draws.for_rows(5, 0)
    one, two = draws.uniform(300, 400, device=CPU), draws.uniform(300, 400, device=CPU)
    draws.for_rows(6, 0)
    other_step = draws.uniform(300, 400, device=CPU)
    assert one.min() >= 0
    assert one.max() < 1
    counts = torch.histc(one, bins=100, min=0, max=1)
    assert float(((counts - 1200) ** 2 / 1200).sum()) < 160  # chi-squared of 99 degrees: 1 in 10,000 lies above 161
    for a, b in ((one, two), (one, other_step), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])):
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.015  # five deviations


def test_seeding_torch_takes_the_draws_back() -> None:
    torch.manual_seed(LOOPS)
    draws.for_rows(5, 0)
    torch.manual_seed(2)
    expected = torch.rand(3, 4)
    torch.manual_seed(2)
    assert torch.equal(draws.uniform(3, 4, device=CPU), expected)
