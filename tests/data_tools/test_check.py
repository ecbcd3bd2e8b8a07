"""Every fault is really caused, named by shard and key, and left out by the repair, which is then clean."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.data.shards import ShardFolder, ShardWriter

Make = Callable[..., Path]


def check(folder: Path, *extra: str) -> tuple[int, dict[str, Any]]:
    status = cli.main(["data", "check", str(folder), "--workers", "1", *extra])
    return status, json.loads((folder / "check.json").read_text())


def found(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(fault["key"], fault["cause"]) for fault in report["faults"]]


def overwrite(folder: Path, shard: int, row: int, suffix: str, change: Callable[[bytearray], Any]) -> None:
    """Change bytes of a member, and of the header before it (the first 512), in place."""
    shards = ShardFolder(folder)
    offset, size = shards._place(shard, row, suffix)
    with open(folder / shards.shards[shard]["file"], "r+b") as file:
        data = bytearray(os.pread(file.fileno(), size + 512, offset - 512))
        change(data)
        os.pwrite(file.fileno(), data, offset - 512)


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 0xFF

    return change


def test_a_clean_set_is_clean(make_shards: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_shards(count=10)
    status, report = check(folder)
    assert (status, report["good"], report["bad"], report["faults"]) == (0, 10, 0, [])
    assert report["captions"] == ShardFolder(folder).num_captions
    assert "10 of 10 samples are good" in capsys.readouterr().out
    assert not list(folder.glob("*.journal"))


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1501 * 12_000))) + chunk(b"IEND", b"")


def spoilt(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
    """What a writer lets through: bytes that are no picture, bombs, no picture, long captions, bad tensors, twins."""
    good = {"features": torch.zeros(2, 4), "boxes": torch.rand(2, 4).sort().values, "class_probs": torch.ones(2, 3)}
    changes: dict[int, dict[str, bytes]] = {
        1: {"jpg": jpeg(1)[:-80]},
        2: {"jpg": b"no picture"},
        3: {"jpg": b"", "png": bomb()},
        4: {"json": record(4, ["word " * 3000])},
        5: {"regions.safetensors": save(good | {"boxes": torch.full((2, 4), 7.0)})},
        6: {"regions.safetensors": save(good | {"features": torch.full((2, 4), torch.nan)})},
        7: {"jpg": jpeg(0)},
        8: {"regions.safetensors": save(good)},
        9: {"json": b'{"image_id": 9, "captions": [{"text": "a dog"}]}'},
    }
    members = members | changes.get(i, {})
    return {suffix: data for suffix, data in members.items() if data}


CAUSES = [
    ("00001", "undecodable picture"),
    ("00002", "undecodable picture"),
    ("00003", "undecodable picture"),
    ("00004", "bad caption"),
    ("00005", "unreadable regions.safetensors"),
    ("00006", "unreadable regions.safetensors"),
    ("00007", "duplicate picture"),
    ("00009", "unreadable record"),
]


def test_every_bad_sample_is_named_and_the_repair_is_clean(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=12, change=spoilt)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    status, report = check(folder, "--repair", str(tmp_path / "good"))
    assert status == 1
    assert found(report) == CAUSES
    assert "first in" in report["faults"][6]["detail"]
    assert "00000" in report["faults"][6]["detail"]
    assert (report["good"], report["bad"]) == (4, 8)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "check.json"} == before
    status, report = check(tmp_path / "good")
    assert (status, report["good"]) == (0, 4)
    good = ShardFolder(tmp_path / "good")
    assert [good.key(*good.locate(i)) for i in range(4)] == ["00000", "00008", "00010", "00011"]
    assert good.has(*good.locate(1), "regions.safetensors")
    assert (tmp_path / "good" / "vocab.txt").is_file()


def test_duplicates_can_be_allowed(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=4, change=lambda i, members: members | {"jpg": jpeg(i % 2)})
    status, report = check(folder, "--allow-duplicates", "--repair", str(tmp_path / "good"))
    assert (status, report["good"], report["causes"]) == (0, 4, {"duplicate picture": 2})
    assert ShardFolder(tmp_path / "good").num_samples == 4


def test_keys_that_repeat_across_shards_are_duplicates(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", samples_per_shard=2) as writer:
        for i, key in enumerate("abab"):
            writer.add(key, {"jpg": jpeg(i), "json": record(i, ["a dog"])})
    status, report = check(tmp_path / "set")
    assert (status, found(report)) == (1, [("a", "duplicate key"), ("b", "duplicate key")])


def test_a_twin_of_a_bad_sample_is_no_duplicate(make_shards: Make) -> None:
    def twins(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        members = members | {"jpg": jpeg(7)}
        return members | ({"json": record(i, ["word " * 3000])} if i == 0 else {})

    _, report = check(make_shards(count=3, change=twins))
    assert found(report) == [("00000", "bad caption"), ("00002", "duplicate picture")]


@pytest.mark.parametrize(
    ("suffix", "change", "cause"),
    [
        ("jpg", flip(512 + 30), "member changed"),  # it decodes, to another picture
        ("json", flip(512), "unreadable record"),
        ("jpg", flip(120), "damaged tar header"),
        ("jpg", lambda data: data.__setitem__(slice(148, 156), b"0000000\0"), "damaged tar header"),
    ],
)
def test_flipped_bytes_are_seen(make_shards: Make, suffix: str, change: Any, cause: str) -> None:
    folder = make_shards(count=10)
    overwrite(folder, 1, 2, suffix, change)
    status, report = check(folder)
    assert status == 1
    assert {
        "shard": 1,
        "file": "shard-000001.tar",
        "cause": "other checksum",
        "detail": "bytes were changed",
    } in report["shard_faults"]
    assert found(report) == [("00006", cause)]


def test_a_set_without_checksums_of_members_is_checked_as_before(make_shards: Make) -> None:
    folder = make_shards(count=10)
    index = json.loads((folder / "index.json").read_text())
    index["shards"] = [{name: told for name, told in s.items() if name != "checksums"} for s in index["shards"]]
    (folder / "index.json").write_text(json.dumps(index))
    overwrite(folder, 1, 2, "jpg", flip(512 + 30))
    status, report = check(folder)
    assert (status, report["bad"]) == (1, 0)  # the shard alone is named
    assert cli.main(["data", "index", str(folder), "--rebuild", "--workers", "1"]) == 0
    assert check(folder)[0] == 0  # as it is now
    overwrite(folder, 0, 1, "json", lambda data: data.__setitem__(slice(512, None), data[512:].replace(b"jpg", b"png")))
    assert found(check(folder)[1]) == [("00001", "member changed")]


@pytest.mark.parametrize("table", [None, b"nothing"])
def test_checksums_that_cannot_be_read_are_a_fault_of_the_shard(make_shards: Make, table: bytes | None) -> None:
    folder = make_shards(count=10)
    path = folder / "shard-000001.crc32.npy"
    path.unlink() if table is None else path.write_bytes(table)
    status, report = check(folder)
    assert (status, report["bad"]) == (1, 0)
    assert [(f["file"], f["cause"]) for f in report["shard_faults"]] == [("shard-000001.tar", "checksums unreadable")]


def test_a_cut_shard_loses_what_is_behind_the_cut_and_a_missing_one_all(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=12)
    shards = ShardFolder(folder)
    cut = shards._place(0, 2, "jpg")[0] + 10
    with open(folder / "shard-000000.tar", "r+b") as file:
        file.truncate(cut)
    (folder / "shard-000002.tar").unlink()
    status, report = check(folder, "--repair", str(tmp_path / "good"))
    assert status == 1
    assert report["causes"] == {"shard ends too early": 2, "shard missing": 4}
    assert [fault["cause"] for fault in report["shard_faults"]] == ["truncated or changed", "damaged tar", "missing"]
    good = ShardFolder(tmp_path / "good")
    assert [good.key(*good.locate(i)) for i in range(good.num_samples)] == [f"{i:05d}" for i in (0, 1, 4, 5, 6, 7)]


def test_a_table_that_leads_nowhere_is_no_crash(make_shards: Make) -> None:
    folder = make_shards(count=10)
    path = folder / "shard-000000.index.npy"
    table = np.load(path, allow_pickle=False)
    table[1, 2::2] = 1 << 60
    np.save(path, table, allow_pickle=False)
    (folder / "shard-000001.index.npy").write_bytes(b"nothing")
    status, report = check(folder)
    assert status == 1
    assert report["causes"] == {"unreadable table": 8}


def test_members_that_no_index_knows_are_named(make_shards: Make) -> None:
    import tarfile

    folder = make_shards(count=4)
    with tarfile.open(folder / "shard-000000.tar", "a") as tar:
        info = tarfile.TarInfo("00000.pyd")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"print"))
    index = folder / "index.json"
    told = json.loads(index.read_text())
    told["shards"][0]["bytes"] = (folder / "shard-000000.tar").stat().st_size
    index.write_text(json.dumps(told))
    status, report = check(folder)
    assert status == 1
    assert ("members that are not indexed", "1: 00000.pyd; never read") in [
        (fault["cause"], fault["detail"]) for fault in report["shard_faults"]
    ]


def test_an_interrupted_check_goes_on(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools import samples

    folder, real, seen = make_shards(count=12), samples.look_at_chunk, []

    def watched(source: Any, unit: tuple[int, int, int]) -> Any:
        seen.append(unit[0])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(source, unit)

    monkeypatch.setattr(samples, "look_at_chunk", watched)
    assert cli.main(["data", "check", str(folder), "--workers", "1"]) == 130
    journal = folder / "check.json.journal"
    journal.write_text(journal.read_text() + '{"torn')
    assert check(folder)[0] == 0
    assert seen == [0, 1, 2, 2]
    assert check(folder, "--limit", "5")[1]["looked_at"] == 5


@pytest.mark.slow
def test_several_processes_say_the_same(make_shards: Make) -> None:
    folder = make_shards(count=12, change=spoilt)
    one = check(folder)
    assert check(folder, "--workers", "2") == one
