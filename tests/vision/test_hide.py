"""What a vision part shows where an objective hides, against the part fed with hidden features."""

import pytest
import torch
from torch import Tensor

from tests.parts import SIZE, WIDTH, batch
from vlp.vision.dictionary import VisualDictionary
from vlp.vision.grid import GridCNN
from vlp.vision.patch_cnn import PatchCNN

CNN = {"layers": [1, 1], "channels": [8, 16], "out_indices": [2]}


def grid(**more: object) -> GridCNN:
    torch.manual_seed(0)
    return GridCNN(name="resnet18", image_size=SIZE, width=WIDTH, norm="group", options=CNN, **more).eval()  # type: ignore[arg-type]


def some_places(places: int) -> Tensor:
    return torch.rand(8, places, generator=torch.Generator().manual_seed(1)) < 0.4


@torch.no_grad()
def test_a_hidden_cell_of_a_grid_shows_the_learned_vector_at_its_place() -> None:
    part, b, hidden = grid(hides=True), batch(), some_places(16)
    torch.nn.init.normal_(part.hidden)
    cells = part.projection(part.cells(b.image))  # type: ignore[arg-type]
    cells[hidden] = part.hidden
    torch.testing.assert_close(part.hide(part(b), hidden).tokens, cells + part.positions)


@torch.no_grad()
def test_a_hidden_patch_shows_a_feature_of_zeros() -> None:
    torch.manual_seed(0)
    options = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]}
    part = PatchCNN(name="resnet18", image_size=SIZE, width=WIDTH, grids=(2,), patch_size=8, options=options).eval()
    b, hidden = batch(), some_places(4)
    for parameter in (part.projection.bias, part.positions, part.norm.weight, part.norm.bias):
        torch.nn.init.normal_(parameter)
    features = part.hidden_features(b).clone()
    features[hidden] = 0.0
    torch.testing.assert_close(part.hide(part(b), hidden).tokens, part.embed(features).tokens)


@torch.no_grad()
def test_a_hidden_entry_shows_the_learned_vector_at_its_place() -> None:
    part, b, hidden = VisualDictionary(grid=grid(), entries=5).eval(), batch(), some_places(16)
    torch.nn.init.normal_(part.mask)
    entries = part.entries[part.codes(b)]
    entries[hidden] = part.mask
    torch.testing.assert_close(part.hide(part(b), hidden).tokens, part.norm(entries + part.grid.positions))


def test_a_grid_that_leaves_cells_out_cannot_hide() -> None:
    with pytest.raises(ValueError, match="hides=True"):
        grid(hides=True, sample=8)
