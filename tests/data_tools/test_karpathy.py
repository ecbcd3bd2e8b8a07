"""Karpathy-layout import: bytes kept, splits merged, everything bad named, interrupted runs continued."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_tools import conversion, karpathy
from tests.data.conftest import jpeg
from vlp.data.errors import DataError
from vlp.data.shards import ShardFolder, ShardWriter


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


def run(source: Path, *extra: str, images: str = "images") -> int:
    parser = argparse.ArgumentParser()
    karpathy.add_arguments(parser)
    words = [str(source / "set.json"), str(source / images), str(source / "out"), "--workers", "1", *extra]
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


@pytest.mark.parametrize(("allowed", "status"), [(0.12, 0), (0.1, 1)])
def test_the_share_of_lost_pictures_decides(source: Path, allowed: float, status: int) -> None:
    (source / "images" / "sub" / "4.jpg").unlink()  # 1 of 9
    assert run(source, "--max-bad-share", str(allowed)) == status


def test_pictures_of_a_flattened_folder_are_found(source: Path) -> None:
    assert run(source, "--splits", "val", images="images/sub") == 0
    assert ShardFolder(source / "out" / "val").num_samples == 3


def stopped_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the conversion when it comes to the picture `number`.jpg."""
    real = conversion.prepare

    def watched(entry: conversion.Entry, **options: Any) -> Any:
        if entry.filename == f"{number}.jpg":
            raise KeyboardInterrupt
        return real(entry, **options)

    monkeypatch.setattr(conversion, "prepare", watched)


def test_interrupted_splits_go_on_as_if_never_stopped(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "images" / "sub" / "1.jpg").unlink()
    words = ("--samples-per-shard", "2", "--max-bad-share", "0.2")
    with monkeypatch.context() as patch:
        stopped_at(5, patch)
        with pytest.raises(KeyboardInterrupt):
            run(source, *words)
    train = source / "out" / "train"
    assert not (train / "index.json").exists()
    first = (train / "shard-000000.tar").stat().st_mtime_ns
    assert run(source, *words) == 0
    assert (train / "shard-000000.tar").stat().st_mtime_ns == first
    assert [r["image_id"] for r in records(train)] == [0, *range(2, 9)]
    went_on = {p.name: p.read_bytes() for p in train.iterdir()}
    report = (source / "out" / "report.json").read_text()
    assert "1.jpg: missing" in report
    shutil.rmtree(source / "out")
    assert run(source, *words) == 0
    assert {p.name: p.read_bytes() for p in train.iterdir()} == went_on
    assert (source / "out" / "report.json").read_text() == report


def test_stopped_just_before_the_index_nothing_is_lost(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(writer: ShardWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "close", killed)
        with pytest.raises(KeyboardInterrupt):
            run(source, "--samples-per-shard", "4")
    assert run(source, "--samples-per-shard", "4") == 0
    assert [r["image_id"] for r in records(source / "out" / "train")] == list(range(9))


def test_complete_splits_are_kept_with_what_was_said_of_them(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "images" / "sub" / "9.jpg").unlink()
    assert run(source) == 1
    index = source / "out" / "val" / "index.json"
    before = index.stat().st_mtime_ns
    report = (source / "out" / "report.json").read_text()
    capsys.readouterr()
    assert run(source) == 1
    assert index.stat().st_mtime_ns == before
    assert (source / "out" / "report.json").read_text() == report
    assert "9.jpg: missing" in capsys.readouterr().out


def test_shards_of_other_settings_are_not_taken_for_these(source: Path) -> None:
    assert run(source, "--limit", "2", "--splits", "val") == 0
    with pytest.raises(DataError, match=r"out/val was begun with other entries .*--limit"):
        run(source)
    with pytest.raises(DataError, match="other resize"):
        run(source, "--limit", "2", "--splits", "val", "--resize", "16")


@pytest.mark.slow
def test_several_processes_write_the_same(source: Path) -> None:
    assert run(source) == 0
    one = {p.name: p.read_bytes() for p in (source / "out" / "train").iterdir()}
    shutil.rmtree(source / "out")
    assert run(source, "--workers", "2") == 0
    assert {p.name: p.read_bytes() for p in (source / "out" / "train").iterdir()} == one


def test_resize_shrinks_to_the_shorter_side(source: Path) -> None:
    from vlp.data.images import decode

    assert run(source, "--resize", "15", "--splits", "val") == 0
    val = ShardFolder(source / "out" / "val")
    assert decode(val.read(0, 0, "jpg")).shape == (3, 15, 20)


def test_wrong_requests_name_file_and_remedy(source: Path) -> None:
    with pytest.raises(DataError, match="has no split dev; it has train, val"):
        run(source, "--splits", "dev")
    with pytest.raises(DataError, match=r"images/elsewhere is no folder"):
        run(source, images="images/elsewhere")
    (source / "other").mkdir()
    with pytest.raises(DataError, match=r"none of the first 12 pictures is in .*other.*sub/0\.jpg"):
        run(source, images="other")
    told = json.loads((source / "set.json").read_text())
    told["images"][5]["imgid"] = 3
    (source / "set.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"images\[5\]\.imgid is 3; each picture needs a whole number of its own"):
        run(source)
    (source / "set.json").write_text('{"images": [{"filename": "0.jpg"}]}')
    with pytest.raises(DataError, match=r"images\[0\] has no sentences, split"):
        run(source)
    (source / "set.json").unlink()
    with pytest.raises(DataError, match=r"set\.json does not exist"):
        run(source)
