"""Augmentation on the device: the pictures and captions that a reading process would have made of the same draws."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import jpeg
from tests.data.test_loader import loader
from vlp.data.images import resize
from vlp.data.on_device import _operated, resized, weights
from vlp.data.on_device import shown as finished
from vlp.data.randaugment import OPERATIONS

Make = Callable[..., Path]


@pytest.mark.parametrize(("length", "size"), [(50, 16), (16, 50), (7, 7), (1, 9), (300, 8)])
def test_weights_are_the_kernel_that_pillow_describes(length: int, size: int) -> None:
    def cubic(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    scale = length / size
    expected = np.zeros((size, length + 3))
    for new in range(size):
        for old in range(length):
            expected[new, old] = cubic((old + 0.5 - (new + 0.5) * scale) / max(scale, 1.0))
        expected[new] /= expected[new].sum()
    found = weights(torch.tensor([length, 2]), length + 3, size)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)


def test_resizing_a_batch_of_parts_is_resizing_each() -> None:
    random = np.random.default_rng(0)
    parts = [
        torch.from_numpy(random.integers(0, 256, (3, h, w), dtype=np.uint8)) for h, w in ((60, 31), (9, 80), (24, 24))
    ]
    batch = torch.from_numpy(random.integers(0, 256, (3, 3, 60, 80), dtype=np.uint8))  # what is outside must not matter
    for row, part in zip(batch, parts, strict=True):
        row[:, : part.shape[1], : part.shape[2]] = part
    sizes = [torch.tensor([part.shape[side] for part in parts]) for side in (1, 2)]
    expected = torch.stack([resize(part, 24) for part in parts])
    gap = (resized(batch, *sizes, 24).int() - expected.int()).abs()
    assert gap.max() <= 2  # noise is the worst case
    assert (gap > 0).float().mean() < 0.05


def test_operations_done_together_are_those_done_one_by_one() -> None:
    pictures = torch.from_numpy(np.random.default_rng(1).integers(20, 200, (40, 3, 24, 24), dtype=np.uint8))
    operations = torch.arange(40) % len(OPERATIONS)
    strengths = torch.tensor([0.7, -0.7, 0.2, -1.0]).double().repeat_interleave(10)
    found, names = _operated(pictures, operations, strengths), list(OPERATIONS)
    for picture, number, strength, got in zip(pictures, operations, strengths, found, strict=True):
        assert torch.equal(got, OPERATIONS[names[number]](picture, float(strength))), names[number]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("randaugment", [(0, 0), (2, 5)])
def test_batches_are_those_of_the_reading_process(
    make_shards: Make, workers: int, randaugment: tuple[int, int]
) -> None:
    folder = make_shards(count=10, change=lambda i, m: m | {"jpg": jpeg(i, (40 + 9 * i, 90 - 3 * i))})
    settings = {"randaugment": randaugment, "captions": 2}
    plain = islice(loader(folder, **settings).batches(0), 4)
    raw = list(islice(loader(folder, augment_on_device=True, workers=workers, **settings).batches(0), 4))
    assert len(torch.cat([batch.boxes.mirrored for batch in raw]).unique()) == 2
    for expected, got in zip(plain, finished(iter(raw), "cpu"), strict=True):
        assert got.boxes is None
        assert torch.equal(got.text_ids, expected.text_ids)  # left and right have changed places in the same ones
        assert torch.equal(got.image_row, expected.image_row)
        gap = (got.image.int() - expected.image.int()).abs().float()
        # Equalizing and stretching the contrast make more of a difference of 1.
        assert gap.max() <= (255 if randaugment[0] else 2)
        assert gap.flatten(1).mean(1).max() < (4 if randaugment[0] else 0.5)
        torch.testing.assert_close(got.to("cpu").image.mean(), expected.to("cpu").image.mean(), atol=0.02, rtol=0)
