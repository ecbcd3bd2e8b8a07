"""RandAugment: sizes and types kept, nothing that changes a colour's name, drawn from its generator alone."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from vlp.data.randaugment import OPERATIONS, randaugment

PICTURE = torch.from_numpy(np.random.default_rng(0).integers(20, 200, (3, 24, 32), dtype=np.uint8))


def pillow(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def test_the_list_is_the_one_that_leaves_captions_true() -> None:
    safe = {"identity", "autocontrast", "equalize", "brightness", "sharpness", "rotate"}
    assert set(OPERATIONS) == safe | {f"{kind}_{axis}" for kind in ("shear", "translate") for axis in "xy"}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.5, 1.0])
def test_operations_keep_shape_and_type(name: str, strength: float) -> None:
    before = PICTURE.clone()
    got = OPERATIONS[name](PICTURE, strength)
    assert (got.shape, got.dtype) == (PICTURE.shape, torch.uint8)
    assert torch.equal(PICTURE, before)
    assert torch.equal(got, PICTURE) == (name == "identity")


def test_operations_are_pillows() -> None:
    theirs = {
        "autocontrast": ImageOps.autocontrast(pillow(PICTURE)),
        "equalize": ImageOps.equalize(pillow(PICTURE)),
        "brightness": ImageEnhance.Brightness(pillow(PICTURE)).enhance(1.45),
    }
    for name, expected in theirs.items():
        assert (OPERATIONS[name](PICTURE, 0.5).int() - tensor(expected).int()).abs().max() <= 1, name


def test_a_grey_picture_stays_grey() -> None:
    grey = PICTURE[:1].expand(3, -1, -1).contiguous()
    for name, operation in OPERATIONS.items():
        got = operation(grey, 0.7)
        assert torch.equal(got[0], got[1]), name


@pytest.mark.parametrize(("name", "dimension"), [("translate_x", 2), ("translate_y", 1)])
def test_translation_moves_by_a_share_of_the_side(name: str, dimension: int) -> None:
    moved, by = OPERATIONS[name](PICTURE, 0.5), round(0.225 * PICTURE.shape[dimension])
    kept = PICTURE.shape[dimension] - by
    assert torch.equal(moved.narrow(dimension, by, kept), PICTURE.narrow(dimension, 0, kept))
    assert (moved.narrow(dimension, 0, by) == 128).all()


def test_shears_are_each_others_mirror() -> None:
    turned = OPERATIONS["shear_x"](PICTURE.transpose(1, 2), 0.6).transpose(1, 2)
    assert torch.equal(OPERATIONS["shear_y"](PICTURE, 0.6), turned)


def test_draws_are_a_function_of_the_generator_alone() -> None:
    torch.manual_seed(1)
    drawn = [randaugment(PICTURE, 2, 7, np.random.default_rng(seed)) for seed in range(20)]
    torch.manual_seed(2)
    assert all(torch.equal(randaugment(PICTURE, 2, 7, np.random.default_rng(s)), d) for s, d in enumerate(drawn))
    assert len({d.numpy().tobytes() for d in drawn}) > 12
    assert torch.equal(randaugment(PICTURE, 0, 7, np.random.default_rng(0)), PICTURE)
