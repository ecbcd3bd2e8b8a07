"""Leaks between sets: copies are found, others are not, and the index finds what comparing all pairs finds."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.fingerprint import as_text, fingerprint, from_texts
from data_tools.neighbours import FARTHEST, Neighbours
from data_tools.overlap import DISTANCE
from tests.data.conftest import record
from vlp import cli
from vlp.data.shards import ShardFolder, ShardWriter

Words = np.typing.NDArray[np.uint64]
Change = Callable[[Image.Image], Image.Image]


def scene(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture with structure at several scales, as photographs have."""
    random, picture = np.random.default_rng(seed), np.zeros((150, 200, 3))
    for cells in (2, 4, 8, 16, 32):
        pixels = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC)) / cells**0.5
    return Image.fromarray(np.uint8(picture / picture.max() * 255)).resize(size)


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def apart(one: bytes, two: bytes) -> int:
    a, b = fingerprint(one), fingerprint(two)
    assert a is not None
    assert b is not None
    return int(np.bitwise_count(a ^ b).sum())


COPIES: list[tuple[Change, dict[str, Any]]] = [
    (lambda p: p, {"quality": 20}),
    (lambda p: p.resize((67, 50)), {"quality": 80}),
    (lambda p: p.resize((500, 300)), {"quality": 90}),
    (lambda p: p.convert("L"), {"quality": 90}),
    (lambda p: p, {"kind": "WEBP", "quality": 30}),
    (lambda p: p.point([min(255, round(v * 1.15)) for v in range(256)] * 3), {"quality": 90}),
    (lambda p: p.convert("CMYK"), {"quality": 90}),
]


@pytest.mark.parametrize(("change", "options"), COPIES)
def test_copies_are_near_and_others_far(change: Change, options: dict[str, Any]) -> None:
    for seed in range(10):
        original = encoded(scene(seed), quality=95)
        assert apart(original, encoded(change(scene(seed)), **options)) <= DISTANCE // 2
        assert apart(original, encoded(change(scene(seed + 100)), **options)) > DISTANCE


def test_a_turned_picture_with_its_exif_is_the_same() -> None:
    turned = scene(3).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    assert apart(encoded(scene(3), quality=95), encoded(turned, quality=95, exif=exif)) <= DISTANCE // 4


def test_one_grey_has_no_hash_and_rubbish_is_refused() -> None:
    assert fingerprint(encoded(Image.new("RGB", (50, 50), (90, 90, 90)))) is None
    with pytest.raises(ValueError, match="cannot be decoded"):
        fingerprint(encoded(scene(0))[:200])
    words = fingerprint(encoded(scene(0)))
    assert words is not None
    assert np.array_equal(from_texts([as_text(words), as_text(words)]), np.stack([words, words]))


def flipped(hashes: Words, seed: int) -> Words:
    """The hashes, each with up to 14 of its bits changed."""
    random, others = np.random.default_rng(seed), hashes.copy()
    for i in range(len(others)):
        for bit in random.choice(64, random.integers(0, 15), replace=False).tolist():
            others[i] ^= np.uint64(1 << bit)
    return others


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=0, max_size=40), st.integers(0, FARTHEST), st.integers(0, 99))
def test_the_index_finds_what_all_pairs_find(values: list[int], radius: int, seed: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    others = np.concatenate([flipped(hashes, seed), hashes[:3]])
    left, right = Neighbours(hashes).within(others, radius)
    near = np.bitwise_count(others[:, None] ^ hashes[None]) <= radius
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == list(zip(*map(list, np.nonzero(near)), strict=True))


def test_candidates_are_held_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.neighbours.PAIRS", 100)
    hashes = np.zeros(60, dtype=np.uint64)  # every one is a candidate of every other
    left, right = Neighbours(hashes).within(hashes, 3)
    assert len(left) == len(right) == 60 * 60


def write(folder: Path, pictures: list[bytes]) -> Path:
    with ShardWriter(folder, samples_per_shard=4) as writer:
        for i, picture in enumerate(pictures):
            writer.add(f"{folder.name}{i}", {"jpg": picture, "json": record(i, ["a dog"])})
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Ten training pictures; of six evaluation pictures two are copies of them."""
    train = [encoded(scene(i)) for i in range(8)] + [b"rubbish", encoded(Image.new("RGB", (40, 40)))]
    copies = [encoded(scene(2).resize((80, 60)), quality=70), encoded(scene(5).convert("L"))]
    test = [*copies, *(encoded(scene(i)) for i in range(50, 53)), encoded(Image.new("RGB", (40, 40)))]
    return write(tmp_path / "train", train), write(tmp_path / "test", test)


def overlap(*words: Path | str) -> int:
    return cli.main(["data", "overlap", *map(str, words), "--workers", "1"])


def test_leaks_are_named_shown_and_dropped(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = sets
    assert overlap(train, test) == 1
    report = json.loads((train / "overlap.json").read_text())
    assert [(p["train"]["key"], p["evaluation"]["key"]) for p in report["pairs"]] == [
        ("train2", "test0"),
        ("train5", "test1"),
    ]
    assert (report["compared"], report["of_one_grey"], report["undecodable"]) == ([8, 5], [1, 1], [1, 0])
    assert report["evaluation_pictures_found"] == [2]
    screen = capsys.readouterr().out
    assert "train2 is " in screen
    assert "not compared: 2 of one grey, 1 that cannot be decoded" in screen
    page = (train / "overlap.html").read_text()
    assert page.count("<img ") == 4
    assert "train5 and test1" in page
    words = ("--drop", train / "overlap.json", "--workers", "1")
    assert cli.main(["data", "pack", str(train), str(tmp_path / "clean"), *map(str, words)]) == 0
    assert ShardFolder(tmp_path / "clean").num_samples == 8
    assert overlap(tmp_path / "clean", test) == 0


def test_a_set_with_itself_gives_its_near_duplicates(tmp_path: Path) -> None:
    pictures = [encoded(scene(0)), encoded(scene(1)), encoded(scene(0), quality=40), encoded(scene(0).resize((90, 70)))]
    folder = write(tmp_path / "set", pictures)
    assert overlap(folder, folder) == 1
    report = json.loads((folder / "overlap.json").read_text())
    assert [fault["key"] for fault in report["faults"]] == ["set2", "set3"]


def test_several_evaluation_sets_and_a_limit(sets: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", [encoded(scene(7))])
    assert overlap(*sets, other, "--report", tmp_path / "r.json", "--page", tmp_path / "r.html") == 1
    assert json.loads((tmp_path / "r.json").read_text())["evaluation_pictures_found"] == [2, 1]
    assert overlap(*sets, other, "--limit", "2") == 0
