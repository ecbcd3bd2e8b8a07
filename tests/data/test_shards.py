"""Shards: other tar readers agree, the same input gives the same bytes, and damage is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.data.conftest import jpeg, record
from vlp.data.errors import BadSampleError, DataError
from vlp.data.shards import ShardFolder, ShardWriter

Make = Callable[..., Path]


def test_webdataset_reads_the_same_members(make_shards: Make) -> None:
    folder = make_shards(count=10, per_shard=4)
    shards = ShardFolder(folder)
    urls = [str(folder / s["file"]) for s in shards.shards]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(theirs) == shards.num_samples == 10
    for i, sample in enumerate(theirs):
        place = shards.locate(i)
        assert shards.key(*place) == sample["__key__"]
        assert shards.read(*place, "jpg") == sample["jpg"]
        assert shards.read(*place, "json") == sample["json"]
        assert shards.read(*place, "png") is None


def test_pairs_enumerate_every_caption_of_every_picture(make_shards: Make) -> None:
    shards = ShardFolder(make_shards(count=10, per_shard=4))
    found = [shards.locate_pair(p) for p in range(shards.num_captions)]
    expected = [(*shards.locate(i), c) for i in range(10) for c in range(1 + i % 3)]
    assert found == expected


def test_the_same_input_gives_the_same_bytes(make_shards: Make) -> None:
    one, two = make_shards(name="one"), make_shards(name="two")
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


@pytest.mark.parametrize("key", ["../../escape", "a/b", "", "a.b", "x" * 65])
def test_unsafe_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="key"), ShardWriter(tmp_path / "s") as writer:
        writer.add(key, {"json": record(0, ["a dog"])})
    assert not (tmp_path / "escape.json").exists()


@pytest.mark.parametrize("suffix", ["pyd", "pickle", "pth"])
def test_members_that_could_be_code_are_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=suffix), ShardWriter(tmp_path / "s") as writer:
        writer.add("a", {"json": record(0, ["a dog"]), suffix: b"x"})


def test_a_caption_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample a: .*each with text"), ShardWriter(tmp_path / "s") as writer:
        writer.add("a", {"json": record(0, ["a dog", "  "])})


def test_a_key_is_a_sample_of_its_own(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s")
    writer.add("a", {"json": record(0, ["a dog"])})
    with pytest.raises(DataError, match="'a' is already in this shard"):
        writer.add("a", {"json": record(1, ["a dog"])})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("suffixes"), "KeyError: 'suffixes'"),
        (lambda r: r["shards"][0].pop("file"), "KeyError: 'file'"),
        (lambda r: r.update(version=2), "version 2, this program reads 1"),
        (lambda r: r.update(captions=99), "99 captions, its shards hold 19"),
        (lambda r: r["shards"][0].update(file="../other.tar"), "shard '../other.tar'"),
    ],
)
def test_an_index_that_does_not_hold_together_is_named(
    make_shards: Make, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    index = make_shards() / "index.json"
    told = json.loads(index.read_text())
    change(told)
    index.write_text(json.dumps(told))
    with pytest.raises(DataError, match=rf"index\.json cannot be read \(.*{re.escape(reason)}.*make the shards again"):
        ShardFolder(index.parent)


def test_shards_of_fewer_suffixes_have_none_of_the_others(make_shards: Make) -> None:
    shards = ShardFolder(make_shards())
    assert (shards.has(0, 0, "jpg"), shards.has(0, 0, "png"), shards.has(0, 0, "unheard-of")) == (True, False, False)
    assert shards.read(0, 0, "unheard-of") is None


def test_a_complete_set_is_never_overwritten(make_shards: Make) -> None:
    folder = make_shards()
    before = (folder / "index.json").read_bytes()
    with pytest.raises(DataError, match="already holds"):
        ShardWriter(folder)
    assert (folder / "index.json").read_bytes() == before


def test_an_interrupted_writer_leaves_no_index(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "s", samples_per_shard=2) as writer:
            for i in range(3):
                writer.add(str(i), {"jpg": jpeg(i), "json": record(i, ["a dog"])})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match=r"has no index\.json"):
        ShardFolder(tmp_path / "s")


def test_missing_truncated_and_empty_are_named(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards()
    shard = folder / "shard-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"shard-000001\.tar has \d+ bytes, but its index says \d+: it is truncated"):
        ShardFolder(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar is missing \(4 samples\)"):
        ShardFolder(folder)
    with pytest.raises(DataError, match="does not exist"):
        ShardFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no sample was written"):
        ShardWriter(tmp_path / "none").close()


def test_a_shard_cut_while_open_gives_bad_samples_and_no_crash(make_shards: Make) -> None:
    folder = make_shards()
    shards = ShardFolder(folder)
    with open(folder / "shard-000002.tar", "r+b") as file:
        file.truncate(600)
    with pytest.raises(BadSampleError, match="ends too early"):
        shards.read(2, 1, "json")


def test_few_files_are_open_however_many_shards_there_are(make_shards: Make) -> None:
    shards = ShardFolder(make_shards(count=12, per_shard=1))
    shards.most_open = 3
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in [*range(12), 0, 11, 5, *range(12)]:
        assert json.loads(shards.read(i, 0, "json") or b"")["image_id"] == i
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 6
    shards.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert shards.key(7, 0) == "00007"
