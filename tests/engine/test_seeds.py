"""Seeds of micro steps: a function of their place, and unrelated between neighbours."""

import itertools

import torch

from vlp.engine.seeds import seed_micro_step, step_seed


def test_neighbouring_places_get_different_seeds() -> None:
    places = list(itertools.product(range(3), range(40), range(4), range(4)))
    assert len({step_seed(*place) for place in places}) == len(places)
    # torch's CPU generator keeps the low 32 bits only.
    assert len({step_seed(*place) & 0xFFFFFFFF for place in places}) == len(places)


def test_digits_do_not_run_together() -> None:
    assert step_seed(1, 11, 0, 0) != step_seed(11, 1, 0, 0)


def test_draws_depend_on_the_place_and_not_on_what_was_drawn_before() -> None:
    seed_micro_step(0, 5, 1, 0)
    expected = torch.rand(8)
    torch.rand(1000)
    seed_micro_step(0, 5, 1, 0)
    assert torch.equal(torch.rand(8), expected)
    seed_micro_step(0, 5, 1, 1)
    assert not torch.equal(torch.rand(8), expected)


def test_first_draws_of_consecutive_steps_are_uniform() -> None:
    draws = []
    for step in range(2000):
        seed_micro_step(0, step, 0, 0)
        draws.append(torch.rand(2))
    first, second = torch.stack(draws).T
    assert abs(float(first.mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert abs(float(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1])) < 0.1
