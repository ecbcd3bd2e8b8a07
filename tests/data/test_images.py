"""Pictures: every kind upright and RGB, limits before decoding, transforms against Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from tests.data.conftest import jpeg
from vlp.data.config import DataConfig
from vlp.data.images import _crop, augment, decode, looks_whole, normalise, resize, swap_sides


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")],
)
def test_every_kind_becomes_the_rgb_that_pillow_sees(mode: str, kind: str) -> None:
    data = encoded(gradient(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)
    got = decode(data).permute(1, 2, 0).numpy().astype(np.int16)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 4  # two JPEG decoders


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = encoded(gradient(), "JPEG", exif=exif, quality=100)
    assert decode(data).shape == (3, 48, 32)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
    with pytest.raises(ValueError, match="above the limit"):
        decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b""))


@pytest.mark.parametrize("data", [b"", b"not a picture", jpeg(0)[: len(jpeg(0)) // 2]])
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no picture|cannot be decoded"):
        decode(data)


def test_the_end_of_a_picture_tells_whether_it_is_whole() -> None:
    whole, png = jpeg(0), encoded(gradient(), "PNG")
    assert looks_whole("jpg", whole[-64:])
    assert looks_whole("png", png[-64:])
    assert not looks_whole("jpg", whole[:-40][-64:])
    assert not looks_whole("png", png[:-40][-64:])


def test_resize_is_pillows_bicubic() -> None:
    picture = torch.from_numpy(np.array(gradient())).permute(2, 0, 1)
    expected = np.asarray(gradient().resize((20, 20), Image.Resampling.BICUBIC), dtype=np.int16)
    got = resize(picture, 20).permute(1, 2, 0).numpy().astype(np.int16)
    assert np.abs(got - expected).max() <= 1


def test_normalise_is_minus_mean_over_std() -> None:
    config = DataConfig(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    got = normalise(torch.full((3, 2, 2), 51, dtype=torch.uint8), config)
    for c, value in enumerate([(0.2 - 0.5) / 0.1, (0.2 - 0.4) / 0.2, (0.2 - 0.3) / 0.3]):
        torch.testing.assert_close(got[c], torch.full((2, 2), value))


def test_a_mirrored_picture_swaps_left_and_right_in_its_caption() -> None:
    assert swap_sides("Left of a box, right there: leftover RIGHT") == "Right of a box, left there: leftover LEFT"
    picture = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    config, seen = DataConfig(image_size=8, flip=True), set()
    for seed in range(20):
        out, mirrored = augment(picture, config, np.random.default_rng(seed))
        assert torch.equal(out, picture.flip(2) if mirrored else picture)
        seen.add(mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 90), (5, 400), (1, 1)])
def test_crops_keep_their_law(height: int, width: int) -> None:
    picture, random = torch.zeros(3, height, width), np.random.default_rng(0)
    boxes = np.array([_crop(picture, (0.4, 0.9), random) for _ in range(2000)])
    top, left, tall, wide = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    if width <= 90 and height > 1:  # room for a box of 3:4 to 4:3; sides are rounded to whole pixels
        slack = 1 / height + 1 / width
        shares = tall * wide / (height * width)
        assert 0.4 - slack < shares.min() < 0.45
        assert shares.max() < 0.9 + slack
        assert (np.abs(np.log(wide / tall)) < np.log(4 / 3) + slack).all()
        assert {0, height - tall.max()} & set(top.tolist())
    else:
        assert set(map(tuple, boxes.tolist())) == {(0, (width - height) // 2, height, height)}


def test_crop_areas_and_places_are_those_of_torchvision() -> None:
    picture, random = torch.zeros(3, 60, 80), np.random.default_rng(1)
    ours = np.array([_crop(picture, (0.3, 1.0), random) for _ in range(4000)])
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.3, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for column in range(4):
        deciles = [np.quantile(boxes[:, column], np.linspace(0.1, 0.9, 9)) for boxes in (ours, theirs)]
        assert np.abs(deciles[0] - deciles[1]).max() <= 2  # pixels


def test_augmentation_is_a_function_of_its_generator_alone() -> None:
    config = DataConfig(image_size=16, crop_scale=(0.3, 0.9), flip=True)
    picture = decode(jpeg(1))
    torch.manual_seed(1)
    one = augment(picture, config, np.random.default_rng(5))
    before = torch.rand(1)
    torch.manual_seed(2)
    two = augment(picture, config, np.random.default_rng(5))
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]
    torch.manual_seed(1)
    assert torch.equal(before, torch.rand(1))  # and it leaves the global generator alone
    assert not torch.equal(one[0], augment(picture, config, np.random.default_rng(6))[0])
