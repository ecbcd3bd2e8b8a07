"""Shards written anew hold what the old ones held, in the sizes, the order and the format that were asked for."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools import pack as pack_module
from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.data.shards import ShardFolder, ShardWriter

Make = Callable[..., Path]


def pack(folder: Path, out: Path, *extra: str) -> int:
    return cli.main(["data", "pack", str(folder), str(out), "--workers", "1", *extra])


def content(folder: Path) -> list[tuple[str, dict[str, bytes | None]]]:
    shards = ShardFolder(folder)
    places = [shards.locate(i) for i in range(shards.num_samples)]
    return [(shards.key(*place), {s: shards.read(*place, s) for s in shards.suffixes}) for place in places]


def test_other_shards_hold_the_same_samples(make_shards: Make, tmp_path: Path) -> None:
    def with_more(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        return members | ({"features.safetensors": b"tokens"} if i % 2 else {})

    folder = make_shards(count=10, change=with_more)
    assert pack(folder, tmp_path / "out", "--samples-per-shard", "3") == 0
    assert content(tmp_path / "out") == content(folder)
    assert [s["samples"] for s in ShardFolder(tmp_path / "out").shards] == [3, 3, 3, 1]
    assert (tmp_path / "out" / "vocab.txt").is_file()
    (report,) = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["pictures"], report["captions"]) == (10, ShardFolder(folder).num_captions)


def test_shards_have_about_the_bytes_that_were_asked_for(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=12)
    assert pack(folder, tmp_path / "out", "--bytes-per-shard", "8KB") == 0
    sizes = [s["bytes"] for s in ShardFolder(tmp_path / "out").shards]
    assert len(sizes) > 2
    assert content(tmp_path / "out") == content(folder)
    largest = max(sum(len(m or b"") + 1024 for m in members.values() if m) for _, members in content(folder))
    assert all(8000 <= size <= 8000 + largest + 10240 for size in sizes[:-1])  # tars end in whole records of 10 kB


def test_pictures_shrink_and_change_their_format(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=3)
    assert pack(folder, tmp_path / "out", "--resize", "15", "--format", "webp") == 0
    for _, members in content(tmp_path / "out"):
        picture = Image.open(io.BytesIO(members["webp"] or b""))
        assert (picture.format, picture.size, members["jpg"]) == ("WEBP", (20, 15), None)
    assert pack(folder, tmp_path / "same", "--resize", "500") == 0
    assert content(tmp_path / "same") == content(folder)


def test_a_shuffle_is_a_function_of_its_seed(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=12)
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert pack(folder, tmp_path / name, "--shuffle", seed) == 0
    keys = {name: [key for key, _ in content(tmp_path / name)] for name in "abc"}
    assert keys["a"] == keys["b"] != keys["c"]
    assert sorted(keys["a"]) == sorted(keys["c"]) == [key for key, _ in content(folder)] != keys["a"]


def test_what_a_report_names_is_left_out(make_shards: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_shards(count=9)
    faults = [{"shard": 0, "row": 1, "key": "00001"}, {"shard": 2, "row": 0, "key": "00008"}]
    (tmp_path / "bad.json").write_text(json.dumps({"faults": faults}))
    assert pack(folder, tmp_path / "out", "--drop", str(tmp_path / "bad.json")) == 0
    assert [key for key, _ in content(tmp_path / "out")] == [f"{i:05d}" for i in (0, 2, 3, 4, 5, 6, 7)]
    (tmp_path / "bad.json").write_text(json.dumps({"faults": [{"shard": 0, "row": 1, "key": "other"}]}))
    assert pack(folder, tmp_path / "other", "--drop", str(tmp_path / "bad.json")) == 2
    assert "names 'other' as row 1 of shard 0" in capsys.readouterr().err


def test_keys_that_meet_in_a_new_shard_stay_apart(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", samples_per_shard=2) as writer:
        for i, key in enumerate("abab"):
            writer.add(key, {"jpg": jpeg(i), "json": record(i, ["a dog"])})
    assert pack(tmp_path / "set", tmp_path / "out") == 0
    assert [key for key, _ in content(tmp_path / "out")] == ["a", "b", "a-2", "b-3"]


def test_what_cannot_be_packed_is_named_and_counted(
    make_shards: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_shards(count=4, change=lambda i, members: members | ({"jpg": b"none"} if i == 2 else {}))
    assert pack(folder, tmp_path / "out", "--resize", "16") == 1
    assert "00002: no picture" in capsys.readouterr().out
    assert ShardFolder(tmp_path / "out").num_samples == 3


def test_an_interrupted_pack_goes_on_as_if_never_stopped(
    make_shards: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = make_shards(count=10), pack_module.repack

    def watched(number: int, **options: Any) -> Any:
        if number == 7:
            raise KeyboardInterrupt
        return real(number, **options)

    words = ("--samples-per-shard", "3")
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "repack", watched)
        assert pack(folder, tmp_path / "out", *words) == 130
    assert not (tmp_path / "out" / "index.json").exists()
    first = (tmp_path / "out" / "shard-000001.tar").stat().st_mtime_ns
    assert pack(folder, tmp_path / "out", *words) == 0
    assert (tmp_path / "out" / "shard-000001.tar").stat().st_mtime_ns == first
    assert pack(folder, tmp_path / "whole", *words) == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).glob("shard*")} for n in ("out", "whole"))
    assert one == two
    assert pack(folder, tmp_path / "out", "--samples-per-shard", "4") == 2


def test_wrong_requests_say_what_to_do(make_shards: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_shards()
    assert pack(folder, folder) == 2
    assert "is the folder that is read; choose another" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pack(folder, folder / "x", "--bytes-per-shard", "large")
    assert "'large' is no size; write 500MB or 1GB" in capsys.readouterr().err
