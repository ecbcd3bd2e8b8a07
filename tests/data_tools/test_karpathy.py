"""Karpathy-layout import: bytes kept, splits merged, everything bad named, interrupted runs continued."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from data_tools import karpathy
from tests.data.conftest import jpeg
from vlp.data.errors import DataError
from vlp.data.shards import ShardFolder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """12 pictures in train, restval and val; 5 and 6 of them bad."""
    images, entries = tmp_path / "images", []
    (images / "sub").mkdir(parents=True)
    for i in range(12):
        split = "val" if i >= 9 else "restval" if i >= 6 else "train"
        (images / "sub" / f"{i}.jpg").write_bytes(jpeg(i))
        sentences = [{"raw": f"a dog {i} {j}", "sentid": 10 * i + j} for j in range(2)]
        entries.append({"filename": f"{i}.jpg", "filepath": "sub", "imgid": i, "split": split, "sentences": sentences})
    (tmp_path / "set.json").write_text(json.dumps({"images": entries}))
    return tmp_path


def run(source: Path, *extra: str) -> int:
    parser = argparse.ArgumentParser()
    karpathy.add_arguments(parser)
    words = [str(source / "set.json"), str(source / "images"), str(source / "out"), "--workers", "1", *extra]
    return karpathy.main(parser.parse_args(words))


def records(folder: Path) -> list[dict[str, Any]]:
    shards = ShardFolder(folder)
    return [json.loads(shards.read(*shards.locate(i), "json")) for i in range(shards.num_samples)]


def test_pictures_keep_their_bytes_and_restval_trains(source: Path) -> None:
    assert run(source) == 0
    told = records(source / "out" / "train")
    assert [r["image_id"] for r in told] == list(range(9))
    assert told[3]["captions"] == [{"id": 30, "text": "a dog 3 0"}, {"id": 31, "text": "a dog 3 1"}]
    val = ShardFolder(source / "out" / "val")
    assert [val.read(*val.locate(i), "jpg") for i in range(3)] == [jpeg(i) for i in (9, 10, 11)]


def test_everything_bad_is_named_and_too_much_fails(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "images" / "sub" / "1.jpg").unlink()
    broken = source / "images" / "sub" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-60])
    told = json.loads((source / "set.json").read_text())
    told["images"][3]["sentences"][0]["raw"] = "  "
    (source / "set.json").write_text(json.dumps(told))
    assert run(source) == 1
    screen = capsys.readouterr().out
    report = json.loads((source / "out" / "report.json").read_text())
    bad = next(r for r in report if r["split"] == "train")["bad"]
    for name, cause in (("1.jpg", "missing"), ("2.jpg", "cannot be decoded"), ("3.jpg", "caption 30 has no text")):
        assert any(name in line and cause in line for line in bad)
        assert name in screen
    assert [len(r["captions"]) for r in records(source / "out" / "train")] == [2, 1, 2, 2, 2, 2, 2]


def test_complete_splits_are_kept_and_interrupted_ones_go_on(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = karpathy.map_in_order

    def watched(pool: Any, function: Any, entries: list[dict[str, Any]]) -> Any:
        for i, result in enumerate(real(pool, function, entries)):
            if len(calls) == 0 and i == 5:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(karpathy, "map_in_order", watched)
    with pytest.raises(KeyboardInterrupt):
        run(source, "--samples-per-shard", "2")
    assert not (source / "out" / "train" / "index.json").exists()
    first = (source / "out" / "train" / "shard-000000.tar").stat().st_mtime_ns
    calls.append("second run")
    assert run(source, "--samples-per-shard", "2") == 0
    assert (source / "out" / "train" / "shard-000000.tar").stat().st_mtime_ns == first
    assert [r["image_id"] for r in records(source / "out" / "train")] == list(range(9))
    before = (source / "out" / "val" / "index.json").stat().st_mtime_ns
    assert run(source, "--samples-per-shard", "2") == 0
    assert (source / "out" / "val" / "index.json").stat().st_mtime_ns == before


def test_resize_shrinks_to_the_shorter_side(source: Path) -> None:
    from vlp.data.images import decode

    assert run(source, "--resize", "15", "--splits", "val") == 0
    val = ShardFolder(source / "out" / "val")
    assert decode(val.read(0, 0, "jpg")).shape == (3, 15, 20)


def test_wrong_requests_name_file_and_remedy(source: Path) -> None:
    with pytest.raises(DataError, match="has no split dev; it has train, val"):
        run(source, "--splits", "dev")
    (source / "set.json").write_text('{"images": [{"filename": "0.jpg"}]}')
    with pytest.raises(DataError, match=r"images\[0\] has no sentences, split"):
        run(source)
    (source / "set.json").unlink()
    with pytest.raises(DataError, match=r"set\.json does not exist"):
        run(source)
