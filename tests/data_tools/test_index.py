"""Tars of other makes are indexed where they lie, and read as our own; what cannot be used is named and left out."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.preflight import preflight
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer

Make = Callable[..., Path]
Samples = list[dict[str, Any]]


def index(folder: Path, *extra: str, verb: str = "img2dataset") -> tuple[int, dict[str, Any]]:
    status = cli.main(["data", verb, str(folder), "--workers", "1", *extra])
    return status, json.loads((folder / "index.report.json").read_text())


def img2dataset(number: int, text: str = "a dog runs") -> dict[str, Any]:
    """A sample as img2dataset writes it."""
    told = {"caption": text, "url": "-", "key": f"{number:09d}", "status": "success", "width": 40, "height": 30}
    return {"__key__": f"{number:09d}", "jpg": jpeg(number), "txt": text.encode(), "json": json.dumps(told).encode()}


def write(folder: Path, *shards: Samples) -> Path:
    folder.mkdir(exist_ok=True)
    for i, samples in enumerate(shards):
        with webdataset.TarWriter(str(folder / f"{i:05d}.tar"), encoder=False) as tar:
            for sample in samples:
                tar.write(sample)
    return folder


def tar_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("0*.tar")) if ".records" not in p.name}


def test_shards_of_img2dataset_are_read_where_they_lie(tmp_path: Path) -> None:
    samples = [img2dataset(10_000 * s + i, f"a dog {s} {i}") for s in range(2) for i in range(3)]
    folder = write(tmp_path / "laion", samples[:3], samples[3:])
    before = tar_bytes(folder)
    status, report = index(folder)
    assert (status, report["pictures"], report["captions"], report["left_out"]) == (0, 6, 6, 0)
    assert tar_bytes(folder) == before
    shards = ShardFolder(folder)
    for i, sample in enumerate(samples):
        place = shards.locate(i)
        assert shards.key(*place) == sample["__key__"]
        assert shards.read(*place, "jpg") == sample["jpg"]
    records = [json.loads(shards.read(*shards.locate(i), "json") or b"") for i in range(6)]
    assert [r["captions"][0]["text"] for r in records] == [s["txt"].decode() for s in samples]
    assert len({r["image_id"] for r in records}) == len({r["captions"][0]["id"] for r in records}) == 6
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    dataset = PairDataset(DataConfig(image_size=32), folder, Tokenizer.from_folder(folder), train=True)
    preflight(dataset)
    assert [dataset.sample(0, i).key for i in range(6)] == [s["__key__"] for s in samples]
    assert cli.main(["data", "check", str(folder), "--workers", "1"]) == 0
    assert cli.main(["data", "pack", str(folder), str(tmp_path / "own"), "--workers", "1"]) == 0
    assert (ShardFolder(tmp_path / "own").num_samples, len(ShardFolder(tmp_path / "own").shards)) == (6, 1)


def test_text_is_the_txt_else_the_jsons_caption_or_captions(tmp_path: Path) -> None:
    samples: Samples = [
        {"__key__": "0", "png": jpeg(0), "txt": b" from the text\n", "json": b'{"caption": "from the json"}'},
        {"__key__": "1", "jpeg": jpeg(1), "json": b'{"caption": "from the json"}'},
        {"__key__": "2", "webp": jpeg(2), "json": b'{"caption": ["one", "two"]}'},
        {"__key__": "3", "JPG": jpeg(3), "txt": b"only a text"},
    ]
    assert index(write(tmp_path / "set", samples))[0] == 0
    shards = ShardFolder(tmp_path / "set")
    texts = [[c["text"] for c in json.loads(shards.read(0, i, "json") or b"")["captions"]] for i in range(4)]
    assert texts == [["from the text"], ["from the json"], ["one", "two"], ["only a text"]]
    assert (shards.read(0, 1, "jpg"), shards.num_captions) == (jpeg(1), 5)


def spoilt() -> Samples:
    return [
        img2dataset(0),
        {"__key__": "1", "txt": b"no picture"},
        {"__key__": "2", "jpg": jpeg(2)},
        {"__key__": "3", "jpg": jpeg(3), "txt": b" \n"},
        {"__key__": "4", "jpg": jpeg(4), "txt": b"\xff\xfe latin"},
        {"__key__": "5", "jpg": b"", "txt": b"a dog"},
        {"__key__": "../../6", "jpg": jpeg(6), "txt": b"a dog"},
        {"__key__": "/tmp/7", "jpg": jpeg(7), "txt": b"a dog"},
        {"__key__": "sp ace", "jpg": jpeg(8), "txt": b"a dog"},
        {"__key__": "9", "jpg": jpeg(9), "txt": b"a dog " * 5000},
        {"__key__": "10", "jpg": jpeg(10), "json": b"{"},
        {"__key__": "11", "jpg": jpeg(11)[:-90], "txt": b"half a dog", "pyd": b"code"},
        {"__key__": "a/12", "jpg": jpeg(12), "txt": b"a dog in a folder"},
    ]


def test_what_cannot_be_used_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "set", spoilt())
    before = tar_bytes(folder)
    status, report = index(folder, "--decode")
    assert (status, report["pictures"], report["left_out"]) == (1, 2, 11)
    assert report["causes"] == {
        "no picture": 1,
        "bad caption": 4,
        "empty picture": 1,
        "unsafe key": 2,
        "unusable key": 1,
        "unreadable json": 1,
        "undecodable picture": 1,
    }
    lines = capsys.readouterr().out
    for i in range(1, 12):
        name = "sp ace" if i == 8 else f"{i}: "
        assert name in " ".join(report["bad"])
        assert name in lines
    shards = ShardFolder(folder)
    assert [shards.key(0, row) for row in range(2)] == ["000000000", "a_12"]
    assert tar_bytes(folder) == before
    assert {p.name for p in tmp_path.iterdir()} == {"set"}


def test_damage_in_a_tar_loses_the_sample_and_no_more(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [img2dataset(i) for i in range(10)])
    path = folder / "00000.tar"
    with tarfile.open(path) as tar:
        place = next(m.offset_data for m in tar.getmembers() if m.name == "000000004.jpg") - 512
    data = bytearray(path.read_bytes())
    data[place + 5] ^= 0xFF
    path.write_bytes(data)
    status, report = index(folder, "--max-bad-share", "0.5")
    assert (status, report["pictures"]) == (0, 9)
    assert report["causes"] == {"no picture": 1, "damaged place in a tar": 1}
    assert any("hold no tar header" in line for line in report["bad"])


def test_an_index_that_was_lost_is_built_again(make_shards: Make) -> None:
    folder = make_shards(count=10)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for path in [folder / "index.json", *folder.glob("*.npy")]:
        path.unlink()
    assert index(folder, verb="index")[0] == 0
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "index.report.json"}
    assert after == before


def test_an_index_is_verified_and_rebuilt_on_request(make_shards: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_shards(count=10)
    assert cli.main(["data", "index", str(folder), "--workers", "1"]) == 0
    assert "3 shards, 10 pictures, 19 captions, ok" in capsys.readouterr().out
    path = folder / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.write_bytes(data)
    assert cli.main(["data", "index", str(folder), "--workers", "1"]) == 1
    assert "shard-000001.tar: its bytes are not those that were indexed" in capsys.readouterr().out
    path.write_bytes(data[:6000])
    assert cli.main(["data", "index", str(folder), "--workers", "1"]) == 2
    status, report = index(folder, "--rebuild", "--max-bad-share", "0.5", verb="index")
    assert (status, report["before"]) == (0, {"samples": 10, "captions": 19})
    assert report["pictures"] < 10
    assert ShardFolder(folder).num_samples == report["pictures"]
    assert "the index before had 10 pictures, 19 captions" in capsys.readouterr().out


def test_own_and_foreign_samples_in_one_tar(tmp_path: Path) -> None:
    own = {"__key__": "x/0", "jpg": jpeg(0), "json": record(77, ["mine", "and mine"])}
    assert index(write(tmp_path / "set", [own, img2dataset(1)]))[0] == 0
    shards = ShardFolder(tmp_path / "set")
    records = [json.loads(shards.read(0, row, "json") or b"") for row in range(2)]
    assert [r["image_id"] for r in records][:1] == [77]
    assert [len(r["captions"]) for r in records] == [2, 1]
    assert [shards.key(0, row) for row in range(2)] == ["x_0", "000000001"]


def test_an_interrupted_index_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools import foreign

    folder, real, seen = write(tmp_path / "set", *([img2dataset(i)] for i in range(4))), foreign.index_tar, []

    def watched(number: int, path: Path, decode: bool) -> Any:
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(number, path, decode)

    monkeypatch.setattr(foreign, "index_tar", watched)
    assert cli.main(["data", "img2dataset", str(folder), "--workers", "1"]) == 130
    assert not (folder / "index.json").exists()
    assert index(folder)[0] == 0
    assert seen == [0, 1, 2, 2, 3]
    assert ShardFolder(folder).num_samples == 4


def test_a_folder_without_tars_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "img2dataset", str(tmp_path)]) == 2
    assert "has no *.tar; give the folder that holds the shards" in capsys.readouterr().err
    write(tmp_path / "set", [{"__key__": "1", "txt": b"no picture"}])
    assert cli.main(["data", "img2dataset", str(tmp_path / "set"), "--workers", "1"]) == 2
    assert "no sample with a picture and a caption; see" in capsys.readouterr().err


def test_a_cut_records_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "set", [img2dataset(0)])
    assert index(folder)[0] == 0
    with open(folder / "00000.records.tar", "r+b") as file:
        file.truncate(600)
    assert cli.main(["data", "index", str(folder)]) == 2
    assert "00000.records.tar has 600 bytes" in capsys.readouterr().err
    assert cli.main(["data", "check", str(folder), "--workers", "1"]) == 1
