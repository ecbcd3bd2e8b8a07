"""SOHO's visual dictionary against loops in float64."""

from dataclasses import replace

import pytest
import torch

from vlp.objectives.masked_dictionary import same_entry
from vlp.types import Batch
from vlp.vision.dictionary import VisualDictionary, nearest
from vlp.vision.grid import GridCNN


def made() -> tuple[VisualDictionary, Batch]:
    torch.manual_seed(0)
    options = {"layers": [1, 1], "channels": [8, 16], "out_indices": [2]}
    grid = GridCNN(name="resnet18", image_size=32, width=12, norm="group", options=options)
    ids = torch.zeros(3, 2, dtype=torch.long)
    batch = Batch(
        text_ids=ids, text_mask=ids == 0, word_ids=ids, image_id=torch.arange(3), caption_id=torch.arange(3),
        image=torch.randn(3, 3, 32, 32),
    )  # fmt: skip
    return VisualDictionary(grid=grid, entries=5), batch


def test_a_cell_shows_its_nearest_entry_and_gets_its_gradient() -> None:
    dictionary, batch = made()
    dictionary.double()
    batch = replace(batch, image=batch.image.double())  # type: ignore[union-attr]
    cells = dictionary.hidden_features(batch)
    distance = (cells[:, :, None].double() - dictionary.entries.double()).square().sum(-1)
    assert torch.equal(nearest(cells, dictionary.entries), distance.argmin(-1))
    cells.retain_grad()
    weight = torch.randn_like(cells)
    out = dictionary(batch).tokens
    shown = (dictionary.entries[distance.argmin(-1)] + dictionary.grid.positions).requires_grad_()
    normed = dictionary.norm(shown)
    torch.testing.assert_close(out, normed)
    (out * weight).sum().backward()
    straight = {n: p.grad.clone() for n, p in dictionary.grid.named_parameters() if p.grad is not None}
    (of_shown,) = torch.autograd.grad((normed * weight).sum(), shown)
    torch.testing.assert_close(straight.pop("positions")[0], of_shown.sum(0))
    dictionary.zero_grad()
    (cells * of_shown).sum().backward()
    assert straight
    for name, parameter in dictionary.grid.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(straight[name], parameter.grad)


def test_entries_are_the_moving_average_of_the_cells_that_chose_them() -> None:
    dictionary, batch = made()
    before, counts, sums = (x.double().clone() for x in (dictionary.entries, dictionary.counts, dictionary.sums))
    cells = dictionary.hidden_features(batch).detach().double().flatten(0, 1)
    codes = dictionary.codes(batch).flatten().tolist()
    dictionary(batch)
    dictionary.after_step()
    decay, mine = 0.4, [[c for c, k in zip(cells, codes, strict=True) if k == i] for i in range(5)]
    new = [decay * float(counts[i]) + (1 - decay) * len(mine[i]) for i in range(5)]
    total = sum(new)
    for i in range(5):
        moved = decay * sums[i] + (1 - decay) * sum(mine[i], torch.zeros(12, dtype=torch.float64))
        smooth = (new[i] + 1e-5) / (total + 5e-5) * total
        wanted = moved / smooth if mine[i] else before[i]
        torch.testing.assert_close(dictionary.entries[i].double(), wanted, rtol=1e-4, atol=1e-5)


def test_an_entry_that_no_cell_chooses_becomes_a_cell_where_asked() -> None:
    dictionary, batch = made()
    dictionary.entries[3:] = 1e3  # far from every cell
    for _ in range(12):
        dictionary(batch)
        dictionary.after_step()
    assert (dictionary.entries[3:] == 1e3).all()
    dictionary.revive = 1e-4
    dictionary(batch)
    dictionary.after_step()
    cells = dictionary.hidden_features(batch).detach().flatten(0, 1)
    for entry in dictionary.entries[3:]:
        assert (entry == cells).all(1).any()
    assert set(dictionary.codes(batch).flatten().tolist()) > {3, 4}


@torch.no_grad()
def test_what_a_cell_is_looked_up_by_does_not_know_its_place() -> None:
    """Sine positions are added behind the dictionary in SOHO: two cells that look alike are one entry anywhere."""
    dictionary, batch = made()
    codes = dictionary.codes(batch)
    torch.nn.init.normal_(dictionary.grid.positions, std=100.0)
    assert torch.equal(dictionary.codes(batch), codes)


def test_a_dictionary_refuses_a_grid_that_leaves_cells_out() -> None:
    options = {"layers": [1, 1], "channels": [8, 16], "out_indices": [2]}
    grid = GridCNN(name="resnet18", image_size=32, width=12, sample=4, options=options)
    with pytest.raises(ValueError, match="sample=4"):
        VisualDictionary(grid=grid)


def test_all_cells_of_the_drawn_entry_are_hidden() -> None:
    codes = torch.tensor([[1, 2, 1, 3], [0, 0, 0, 2]])
    hidden = same_entry(codes, torch.tensor([2, 3]))
    assert hidden.tolist() == [[True, False, True, False], [False, False, False, True]]
