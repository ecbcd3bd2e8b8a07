"""Pictures: every kind upright and RGB, limits before decoding, transforms against Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchvision.transforms import RandomResizedCrop

from tests.data.conftest import jpeg
from vlp.data import images
from vlp.data.config import DataConfig
from vlp.data.images import Picture, _crop, augment, decode, looks_whole, normalise, reduction, resize, swap_sides


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


@pytest.mark.parametrize(("height", "width"), [(32, 48), (7, 300), (20, 20), (1, 1), (9, 1), (1, 9)])
def test_resize_is_interpolate_whatever_the_layout_and_the_place(height: int, width: int) -> None:
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    whole = torch.zeros(height + 4, width + 4, 3, dtype=torch.uint8)
    whole[2:-2, 2:-2] = picture
    expected = F.interpolate(picture.permute(2, 0, 1)[None], (20, 20), mode="bicubic", antialias=True)[0]
    place = torch.zeros(3, 20, 20, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for shown in (
        picture.permute(2, 0, 1),
        picture.permute(2, 0, 1).contiguous(),
        whole.permute(2, 0, 1)[:, 2:-2, 2:-2],
    ):
        assert torch.equal(resize(shown, 20), expected)
        assert resize(shown, 20, place[1]).data_ptr() == place[1].data_ptr()
        assert torch.equal(place[1], expected)
    assert not place[0].any()
    assert not place[2].any()


def test_normalise_is_minus_mean_over_std() -> None:
    config = DataConfig(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    got = normalise(torch.full((3, 2, 2), 51, dtype=torch.uint8), config)
    for c, value in enumerate([(0.2 - 0.5) / 0.1, (0.2 - 0.4) / 0.2, (0.2 - 0.3) / 0.3]):
        torch.testing.assert_close(got[c], torch.full((2, 2), value))


def test_a_mirrored_picture_swaps_left_and_right_in_its_caption() -> None:
    assert swap_sides("Left of a box, right there: leftover RIGHT") == "Right of a box, left there: leftover LEFT"
    picture = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    data = encoded(Image.fromarray(picture.permute(1, 2, 0).numpy()), "PNG")
    config, seen = DataConfig(image_size=8, flip=True), set()
    for seed in range(20):
        out, mirrored = augment(Picture(data), config, np.random.default_rng(seed))
        assert torch.equal(out, picture.flip(2) if mirrored else picture)
        seen.add(mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 90), (5, 400), (1, 1)])
def test_crops_keep_their_law(height: int, width: int) -> None:
    random = np.random.default_rng(0)
    boxes = np.array([_crop((height, width), (0.4, 0.9), random) for _ in range(2000)])
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
    ours = np.array([_crop((60, 80), (0.3, 1.0), random) for _ in range(4000)])
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.3, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for column in range(4):
        deciles = [np.quantile(boxes[:, column], np.linspace(0.1, 0.9, 9)) for boxes in (ours, theirs)]
        assert np.abs(deciles[0] - deciles[1]).max() <= 2  # pixels


def test_augmentation_is_a_function_of_its_generator_alone() -> None:
    config = DataConfig(image_size=16, crop_scale=(0.3, 0.9), flip=True)
    picture = Picture(jpeg(1))
    torch.manual_seed(1)
    one = augment(picture, config, np.random.default_rng(5))
    before = torch.rand(1)
    torch.manual_seed(2)
    two = augment(Picture(jpeg(1)), config, np.random.default_rng(5))
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]
    torch.manual_seed(1)
    assert torch.equal(before, torch.rand(1))  # and it leaves the global generator alone
    assert not torch.equal(one[0], augment(Picture(jpeg(1)), config, np.random.default_rng(6))[0])


@pytest.fixture(params=["fast", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Pillow":
        monkeypatch.setattr(images, "simplejpeg", None)


def photo(width: int, height: int, **options: object) -> bytes:
    """Smooth shapes with some noise, as photographs are."""
    random = np.random.default_rng(width)
    smooth = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(smooth) + random.normal(0, 4, (height, width, 3))
    return encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", **({"quality": 90} | options))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}]
)
@pytest.mark.parametrize("by", [1, 2, 4, 8])
def test_both_decoders_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], by: int
) -> None:
    data = photo(203, 117, **options)
    fast = Picture(data).decode(by)
    monkeypatch.setattr(images, "simplejpeg", None)
    assert torch.equal(fast, Picture(data).decode(by))
    assert fast.shape == (3, -(-117 // by), -(-203 // by))


@pytest.mark.usefixtures("decoder")
def test_decoding_at_reduced_scale_is_nearly_shrinking_what_was_decoded() -> None:
    data = photo(640, 480)
    whole, half = resize(decode(data), 200), resize(Picture(data).decode(2), 200)
    assert (whole.float() - half.float()).abs().mean() < 1


@pytest.mark.parametrize(
    ("height", "width", "size", "by"), [(480, 640, 224, 2), (447, 640, 224, 1), (2000, 3000, 224, 8), (30, 30, 16, 1)]
)
def test_a_part_is_never_decoded_below_the_size_that_it_is_wanted_at(
    height: int, width: int, size: int, by: int
) -> None:
    assert reduction(height, width, size) == by


@pytest.mark.usefixtures("decoder")
def test_a_crop_of_a_reduced_picture_shows_the_same_part() -> None:
    config, data = DataConfig(image_size=64, crop_scale=(0.3, 0.9)), photo(640, 480)
    for seed in range(5):
        got, _ = augment(Picture(data), config, np.random.default_rng(seed))
        top, left, height, width = _crop((480, 640), config.crop_scale, np.random.default_rng(seed))
        expected = resize(decode(data)[:, top : top + height, left : left + width], 64)
        assert (got.float() - expected.float()).abs().mean() < 2


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_damaged_bytes_give_a_picture_or_a_value_error(kind: str) -> None:
    data, random, refused = encoded(gradient(), kind), np.random.default_rng(0), 0
    for _ in range(300):
        changed = bytearray(data)
        for place in random.integers(len(data), size=random.integers(1, 6)):
            changed[place] = random.integers(256)
        try:
            assert Picture(bytes(changed)).decode(int(random.choice([1, 2]))).dtype == torch.uint8
        except ValueError:
            refused += 1
    assert refused


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_the_one_that_pillow_turns_to(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = photo(60, 40, exif=exif)
    picture = Picture(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (picture.height, picture.width) == upright.shape[:2]
    assert torch.equal(picture.decode(), torch.from_numpy(upright.copy()).permute(2, 0, 1))


def test_padding_in_front_of_a_segment_hides_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = photo(60, 40, exif=exif)
    place = data.index(b"\xff\xe1")
    padded = data[:place] + b"\xff\xff\xff" + data[place:]
    assert torch.equal(decode(padded), decode(data))
    assert decode(padded).shape == (3, 60, 40)


def test_sixteen_bits_keep_their_upper_eight() -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    got = decode(encoded(Image.fromarray(levels), "PNG"))
    assert torch.equal(got[0], torch.from_numpy((levels >> 8).astype(np.uint8)))
    assert torch.equal(got[0], got[2])


def test_only_pictures_are_opened() -> None:
    postscript = encoded(gradient(), "EPS")  # Pillow would hand it to another program
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(ValueError, match="no picture"):
        Picture(postscript)
