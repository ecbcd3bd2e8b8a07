"""Seeds of micro steps: a function of their place, and unrelated between neighbours."""

import itertools

import torch

from vlp.engine.seeds import seed_micro_step, step_seed
from vlp.layers import draws


def test_neighbouring_places_get_different_seeds() -> None:
    places = list(itertools.product(range(3), range(40), range(4), range(4)))
    assert len({step_seed(*place) for place in places}) == len(places)
    # torch's CPU generator keeps the low 32 bits only.
    assert len({step_seed(*place) & 0xFFFFFFFF for place in places}) == len(places)


def test_digits_do_not_run_together() -> None:
    assert step_seed(1, 11, 0, 0) != step_seed(11, 1, 0, 0)


def test_draws_depend_on_the_place_and_not_on_what_was_drawn_before() -> None:
    seed_micro_step(0, 5, 1, 0, 2, 4)
    expected = torch.rand(8)
    torch.rand(1000)
    seed_micro_step(0, 5, 1, 0, 2, 4)
    assert torch.equal(torch.rand(8), expected)
    seed_micro_step(0, 5, 1, 1, 2, 4)
    assert not torch.equal(torch.rand(8), expected)


def test_first_draws_of_consecutive_steps_are_uniform() -> None:
    draws = []
    for step in range(2000):
        seed_micro_step(0, step, 0, 0, 1, 4)
        draws.append(torch.rand(2))
    first, second = torch.stack(draws).T
    assert abs(float(first.mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert abs(float(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1])) < 0.1


def test_objectives_draw_for_a_row_of_the_step_whatever_the_ranks_and_micro_steps() -> None:
    cpu = torch.device("cpu")
    seed_micro_step(3, 7, 0, 0, 1, 12)
    whole = [draws.uniform(12, 5, device=cpu), draws.uniform(12, 9, device=cpu)]
    for world, accumulate in ((2, 1), (1, 3), (2, 3), (4, 3)):
        share = 12 // (world * accumulate)
        parts = []
        for micro in range(accumulate):
            for rank in range(world):
                seed_micro_step(3, 7, micro, rank, world, share)
                torch.rand(rank + micro)  # a rank's own history
                parts.append([draws.uniform(share, 5 + rank, device=cpu)[:, :5], draws.uniform(share, 9, device=cpu)])
        for i, drawn in enumerate(whole):
            assert torch.equal(torch.cat([part[i] for part in parts]), drawn)
