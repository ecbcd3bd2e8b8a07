"""Every fault of the data really caused: counted by cause, named and judged; no crash, no code, no memory."""

import io
import json
import pickle
import re
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import DataError
from vlp.data.loader import TrainLoader
from vlp.data.shards import SUFFIXES, ShardFolder, ShardWriter
from vlp.data.tokenizer import Tokenizer

COUNT = 40
Samples = list[dict[str, tuple[str, bytes]]]  # of each sample, by suffix, name and bytes of the member


def plain() -> Samples:
    return [{"jpg": (f"{i:05d}.jpg", jpeg(i)), "json": (f"{i:05d}.json", record(i, ["a dog"]))} for i in range(COUNT)]


def write(folder: Path, samples: Samples, before: bytes = b"", extra: dict[str, bytes] | None = None) -> Path:
    """One shard as a stranger might write it: no name is refused."""
    folder.mkdir()
    rows = []
    with open(folder / "shard-000000.tar", "wb") as raw:
        raw.write(before)
        with tarfile.open(fileobj=raw, mode="w|", format=tarfile.USTAR_FORMAT) as tar:

            def add(name: str, data: bytes) -> list[int]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                start = len(before) + tar.offset + tarfile.BLOCKSIZE
                tar.addfile(info, io.BytesIO(data))
                return [start, len(data)]

            for name, data in (extra or {}).items():
                add(name, data)
            for members in samples:
                row = [1] + [-1] * (2 * len(SUFFIXES))
                for suffix, (name, data) in members.items():
                    place = 1 + 2 * SUFFIXES.index(suffix)
                    row[place : place + 2] = add(name, data)
                rows.append(row)
    np.save(folder / "shard-000000.index.npy", np.array(rows, dtype=np.int64))
    write_index(folder, len(rows))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    return folder


def write_index(folder: Path, count: int) -> None:
    size = (folder / "shard-000000.tar").stat().st_size
    shard = {"file": "shard-000000.tar", "samples": count, "captions": count, "bytes": size, "sha256": ""}
    told = {"version": 1, "suffixes": SUFFIXES, "samples": count, "captions": count, "shards": [shard]}
    (folder / "index.json").write_text(json.dumps(told))


def write_four(folder: Path) -> Path:
    """The plain samples in four shards of ten."""
    with ShardWriter(folder, samples_per_shard=10) as writer:
        for i, members in enumerate(plain()):
            writer.add(f"{i:05d}", {suffix: data for suffix, (_, data) in members.items()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    return folder


# ---------------------------------------------------------------- a run over damaged data


@dataclass
class Outcome:
    """What reading one epoch came to: nothing but a message where it was not begun."""

    bad: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    message: str = ""


def memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) >> 10  # type: ignore[index]


def outcome(folder: Path, share: float) -> Outcome:
    """Read every position once. No more than 200 MiB of memory may be taken for it, whatever lies there."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    config = DataConfig(image_size=16, batch_size=4, max_bad_share=share, crop_scale=(0.5, 1.0))
    found = Outcome()
    try:
        with warnings.catch_warnings(action="ignore"):
            loader = TrainLoader(config, PairDataset(config, folder, Tokenizer.from_folder(folder), train=True))
        found.keys = [key for batch in islice(loader.batches(0), COUNT // 4) for key in batch.keys]
        found.bad = loader.report()
    except DataError as error:
        found.message = str(error)
    assert memory("VmHWM") - before < 200
    return found


def check_lost(folder: Path, cause: str, lost: set[int], named: str) -> None:
    """Exactly these samples are lost, all by this cause; the default limit stops the run before it starts."""
    lenient = outcome(folder, 0.9)
    assert not lenient.message
    assert lenient.bad == {cause: len(lost)}
    assert set(lenient.keys) == {f"{i:05d}" for i in range(COUNT)} - {f"{i:05d}" for i in lost}
    assert len(lenient.keys) == COUNT  # every step is whole all the same
    strict = outcome(folder, DataConfig().max_bad_share)
    assert f"{len(lost)} of {COUNT} samples" in strict.message
    assert re.search(named, strict.message), strict.message
    assert "max_bad_share allows 0.10%" in strict.message


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("kept", [0.999, 0.55, 0.1])
def test_a_truncated_shard_loses_what_is_behind_the_cut_and_no_more(tmp_path: Path, kept: float) -> None:
    folder = write_four(tmp_path / "set")
    shards = ShardFolder(folder)
    size = int(shards.shards[2]["bytes"] * kept)
    with tarfile.open(folder / "shard-000002.tar") as tar:  # what another reader says of the places
        ends = {m.name: m.offset_data + m.size for m in tar.getmembers()}
    lost = {int(name[:5]) for name, end in ends.items() if end > size}
    with open(folder / "shard-000002.tar", "r+b") as file:
        file.truncate(size)
    if kept == 0.999:  # zeros at the end of a tar hold nothing
        assert not lost
        assert outcome(folder, 0.001).bad == {}
        return
    check_lost(folder, "shard truncated", lost, rf"shard-000002\.tar has {size} bytes.*\({len(lost)} of 10 samples")


def test_an_empty_shard(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    (folder / "shard-000001.tar").write_bytes(b"")
    check_lost(folder, "shard empty", set(range(10, 20)), r"shard-000001\.tar has 0 bytes.*\(10 of 10 samples lost\)")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    (folder / "shard-000003.tar").unlink()
    check_lost(folder, "shard missing", set(range(30, 40)), r"shard-000003\.tar is missing.*\(10 of 10 samples lost\)")


def test_a_shard_that_grew_is_not_trusted(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    with open(folder / "shard-000000.tar", "ab") as file:
        file.write(b"x")
    check_lost(folder, "shard changed", set(range(10)), r"shard-000000\.tar has \d+ bytes.* it was changed")


def test_a_member_table_that_is_cut(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    table = folder / "shard-000000.index.npy"
    table.write_bytes(table.read_bytes()[:-8])
    check_lost(folder, "member table damaged", set(range(10)), r"shard-000000\.index\.npy has \d+ bytes in place of")


def test_a_member_table_whose_numbers_are_wrong(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    table = np.load(folder / "shard-000000.index.npy")
    table[3, 1] = 1 << 40
    np.save(folder / "shard-000000.index.npy", table)
    check_lost(folder, "shard unreadable", set(range(10)), "holds numbers that fit no such shard")


def test_bits_that_flip_damage_the_members_that_they_hit(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", plain())
    table = np.load(folder / "shard-000000.index.npy")
    data = bytearray((folder / "shard-000000.tar").read_bytes())
    pictures, records = table[:, 1], table[:, 1 + 2 * SUFFIXES.index("json")]
    data[pictures[7]] ^= 0x10  # the first byte of a JPEG
    data[records[9]] ^= 0x01  # the brace that opens a record
    data[records[11] - tarfile.BLOCKSIZE + 150] ^= 0x04  # a tar header: a tar reader would lose all that follows
    (folder / "shard-000000.tar").write_bytes(data)
    found = outcome(folder, 0.9)
    assert found.bad == {"undecodable picture": 1, "unreadable record": 1}
    assert set(found.keys) == {f"{i:05d}" for i in range(COUNT)} - {"00007", "00009"}
    strict = outcome(folder, 0.001)
    assert re.search(r"2 of 40 samples.*\n.*00007: undecodable picture.*\n.*00009: unreadable record", strict.message)


def test_the_command_ends_with_a_message_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_four(tmp_path / "set")
    with open(folder / "shard-000002.tar", "r+b") as file:
        file.truncate(4000)
    assert cli.main(["pretrain", "configs/debug.py", f"data.train={folder}", f"run.out={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert "shard-000002.tar has 4000 bytes" in said
    assert "raise data.max_bad_share" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_share_below_the_limit_is_a_warning_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write_four(tmp_path / "set")
    (folder / "shard-000001.tar").unlink()
    config = DataConfig(image_size=16, batch_size=4, max_bad_share=0.3)
    with pytest.warns(UserWarning, match=r"10 of 40 samples of .* are lost.*\n.*shard-000001\.tar is missing"):
        loader = TrainLoader(config, PairDataset(config, folder, Tokenizer.from_folder(folder), train=True))
    list(islice(loader.batches(0), 100))  # however often they come by, what was judged before does not stop the run
    assert loader.report() == {"shard missing": 100}


# ---------------------------------------------------------------- samples


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes(12_000 * 36_001 // 100), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def told(captions: Any, **more: Any) -> bytes:
    return json.dumps({"image_id": 5, "filename": "5.jpg", "captions": captions} | more).encode()


BAD: dict[str, tuple[str, str, bytes | None]] = {
    "no picture at all": ("jpg", "no picture", None),
    "half a picture": ("jpg", "undecodable picture", jpeg(5)[:400]),
    "a text for a picture": ("jpg", "undecodable picture", b"<html>404</html>"),
    "a program for a picture": (
        "jpg",
        "undecodable picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    ),
    "a bomb": ("jpg", "undecodable picture", bomb()),
    "no record": ("json", "no record", None),
    "no json": ("json", "unreadable record", b"a dog"),
    "nested without end": ("json", "unreadable record", b"[" * 200_000),
    "no captions": ("json", "no caption", told([])),
    "no text": ("json", "unreadable record", told([{"id": 1}])),
    "a number for a text": ("json", "caption without text", told([{"id": 1, "text": 7}])),
    "an empty caption": ("json", "caption without text", told([{"id": 1, "text": " \n"}])),
    "a giant caption": ("json", "caption too long", told([{"id": 1, "text": "dog " * 20_000}])),
    "a giant record": ("json", "json too large", told([{"id": 1, "text": "dog " * 20_000_000}])),
    "bytes of another encoding": (
        "json",
        "wrong encoding",
        told([{"id": 1, "text": "x"}]).replace(b'"x"', b'"Caf\xe9"'),
    ),
    "half a surrogate": ("json", "wrong encoding", told([{"id": 1, "text": "dog \ud800"}])),
    "an id beyond 64 bits": ("json", "unreadable record", told([{"id": 1 << 70, "text": "dog"}])),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_is_one_sample_less(tmp_path: Path, name: str) -> None:
    suffix, cause, data = BAD[name]
    samples = plain()
    if data is None:
        del samples[5][suffix]
    else:
        samples[5][suffix] = (f"00005.{suffix}", data)
    named = "row 5" if name == "no record" else "00005"
    check_lost(write(tmp_path / "set", samples), cause, {5}, rf"shard-000000\.tar: {named}: {cause}")


def test_a_picture_of_2_gigabytes_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", plain())
    path, table = folder / "shard-000000.tar", np.load(folder / "shard-000000.index.npy")
    table[5, 1:3] = path.stat().st_size, 2 << 30
    np.save(folder / "shard-000000.index.npy", table)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + (2 << 30))  # a hole: takes no disk
    write_index(folder, COUNT)
    lenient = outcome(folder, 0.9)
    assert lenient.bad == {"jpg too large": 1}


# ---------------------------------------------------------------- what is unusual and no fault


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_pickled_members_are_never_loaded(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    code = pickle.dumps(Trap(sprung))
    pickle.loads(code)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    extra = {f"00000.{kind}": code for kind in ("pyd", "pkl", "pickle", "pth", "pt", "npy", "npz")}
    found = outcome(write(tmp_path / "set", plain(), extra=extra), 0.001)
    assert (found.message, found.bad, len(set(found.keys))) == ("", {}, COUNT)
    assert not sprung.exists()


def test_keys_that_climb_out_of_the_folder_are_names_and_no_paths(tmp_path: Path) -> None:
    samples = plain()
    samples[5] = {kind: (f"../../escape.{kind}", data) for kind, (_, data) in samples[5].items()}
    before = set(tmp_path.rglob("*"))
    folder = write(tmp_path / "set", samples)
    found = outcome(folder, 0.001)
    assert (found.message, found.bad) == ("", {})
    assert "../../escape" in found.keys
    assert {path.name for path in set(tmp_path.rglob("*")) - before} == {"set", *(p.name for p in folder.iterdir())}
    assert not list(tmp_path.parent.glob("escape*"))


def test_samples_of_one_key_are_two_samples(tmp_path: Path) -> None:
    samples = plain()
    samples[6] = {kind: (f"00005.{kind}", data) for kind, (_, data) in samples[6].items()}
    folder = write(tmp_path / "set", samples)
    found = outcome(folder, 0.001)
    assert (found.message, found.bad, found.keys.count("00005")) == ("", {}, 2)
    shards = ShardFolder(folder)
    assert [json.loads(shards.read(0, row, "json") or b"")["image_id"] for row in (5, 6)] == [5, 6]


def test_100_000_other_members_are_passed_over(tmp_path: Path) -> None:
    header = tarfile.TarInfo("other.txt").tobuf(tarfile.USTAR_FORMAT)
    found = outcome(write(tmp_path / "set", plain(), before=header * 100_000), 0.001)
    assert (found.message, found.bad, len(set(found.keys))) == ("", {}, COUNT)


def unusual(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_unusual_pictures_are_pictures(tmp_path: Path) -> None:
    other = Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 8
    pictures = [
        ("jpg", unusual("JPEG", "CMYK")),
        ("jpg", unusual("JPEG", "L")),
        ("jpg", unusual("JPEG", progressive=True)),
        ("jpg", unusual("JPEG", exif=exif)),
        ("jpg", unusual("GIF", save_all=True, append_images=[other] * 3)),
        ("png", unusual("PNG", "RGBA")),
        ("png", unusual("PNG", "P")),
        ("png", unusual("PNG", "1")),
        ("png", unusual("PNG", "I;16")),
        ("png", unusual("PNG", save_all=True, append_images=[other] * 3)),
        ("webp", unusual("WEBP", save_all=True, append_images=[other] * 3)),
    ]
    samples = plain()
    for i, (kind, data) in enumerate(pictures):
        samples[i] = {kind: (f"{i:05d}.{kind}", data), "json": samples[i]["json"]}
    found = outcome(write(tmp_path / "set", samples), 0.001)
    assert (found.message, found.bad, len(set(found.keys))) == ("", {}, COUNT)
