"""The command: the same bytes for the same arguments, whole splits kept, nothing overwritten."""

import argparse
import filecmp
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from data_tools import karpathy, synthesize
from data_tools.world.grammar import MAX_WORDS
from data_tools.world.sample import SPLITS
from vlp.data.errors import DataError
from vlp.data.images import decode
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer

COUNTS = {"train": 8, "val": 60, "test": 10}  # 60: more than one chunk, so that workers share them


def run(out: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    counts = [word for split, count in COUNTS.items() for word in (f"--{split}", str(count))]
    return synthesize.main(parser.parse_args([str(out), *counts, "--workers", "1", *words]))


def members(folder: Path, suffix: str) -> list[bytes]:
    shards = ShardFolder(folder)
    found = [shards.read(*shards.locate(i), suffix) for i in range(shards.num_samples)]
    assert None not in found
    return [data for data in found if data is not None]


def records(folder: Path, suffix: str = "json") -> list[dict[str, Any]]:
    return [json.loads(data) for data in members(folder, suffix)]


def regions_and_truth(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    found = (load(data) for data in members(folder, "regions.safetensors"))
    return zip(found, records(folder, "truth.json"), strict=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthesize") / "world"
    assert run(out, "--pictures") == 0
    return out


def assert_same_files(a: Path, b: Path) -> None:
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(b)) for p in b.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(a, b, names, shallow=False)[0] == names


def test_same_arguments_same_bytes_with_any_number_of_workers(world: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", "--pictures", "--workers", "2")
    assert_same_files(world, tmp_path / "again")


def test_another_seed_or_split_is_another_world(world: Path, tmp_path: Path) -> None:
    run(tmp_path / "other", "--seed", "1")
    pictures = [set(members(folder, "png")) for folder in (world / "val", world / "test", tmp_path / "other" / "val")]
    assert [len(p) for p in pictures] == [60, 10, 60]
    assert not pictures[0] & pictures[1]
    assert not pictures[0] & pictures[2]


def test_a_smaller_split_is_the_start_of_a_larger_one(world: Path, tmp_path: Path) -> None:
    run(tmp_path / "small", "--val", "5")
    for suffix in ("png", "json", "truth.json", "masks.png", "regions.safetensors"):
        assert members(tmp_path / "small" / "val", suffix) == members(world / "val", suffix)[:5]


def test_whole_splits_are_kept_and_a_broken_one_is_made_again(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "world"
    run(out, "--pictures")
    kept = (out / "train" / "shard-000000.tar").stat().st_mtime_ns
    (out / "val").rename(out / "val.part")  # what an interruption leaves
    (out / "val.part" / "index.json").unlink()
    run(out, "--pictures")
    assert (out / "train" / "shard-000000.tar").stat().st_mtime_ns == kept
    assert not (out / "val.part").exists()
    assert_same_files(world, out)


def test_other_settings_do_not_overwrite(world: Path) -> None:
    before = (world / "summary.json").read_bytes()
    with pytest.raises(DataError, match=r"train holds a world with .*seed=0.* and .*seed=7.* was asked for"):
        run(world, "--seed", "7")
    assert (world / "summary.json").read_bytes() == before
    assert not (world / "train.part").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "train/picture.jpg", "val.part/notes.txt"])
def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("years of work")
    with pytest.raises(DataError, match="choose"):
        run(tmp_path, "--train", "0", "--test", "0") if "val" in name else run(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [Path(name).name]


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    for words in (("--size", "8"), ("--train", "0", "--val", "0", "--test", "0"), ("--val", "-1")):
        with pytest.raises(DataError, match="make no world"):
            run(tmp_path, *words)
    with pytest.raises(DataError, match="room for 1 to 6"):
        run(tmp_path, "--things", "7")


def test_a_world_from_before_there_was_a_choice_of_things_is_kept(tmp_path: Path) -> None:
    words = ("--train", "4", "--val", "0", "--test", "0")
    run(tmp_path, *words)
    place = tmp_path / "train" / "settings.json"
    settings = json.loads(place.read_text())
    assert settings.pop("things") == 6
    place.write_text(json.dumps(settings))
    before = (tmp_path / "train" / "index.json").stat().st_mtime_ns
    run(tmp_path, *words)
    assert (tmp_path / "train" / "index.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="things=6.* and .*things=2"):
        run(tmp_path, *words, "--things", "2")


def test_every_caption_is_made_of_known_words(world: Path) -> None:
    tokenizer = Tokenizer.from_folder(world / "train")
    assert tokenizer.vocab_size < 160
    for record in records(world / "train") + records(world / "val"):
        for caption in record["captions"]:
            ids, words = tokenizer(caption["text"], 40)
            assert tokenizer.unk_id not in ids
            assert len(ids) == len(caption["text"].replace(",", " ,").split()) + 2  # one piece a word, [CLS] and [SEP]
            assert tokenizer.decode(ids).replace(" ,", ",") == caption["text"]
            assert caption["text"] == caption["text"].lower()


def test_ids_are_unique_over_all_splits(world: Path) -> None:
    everything = [record for split in SPLITS for record in records(world / split)]
    images = [record["image_id"] for record in everything]
    captions = [caption["id"] for record in everything for caption in record["captions"]]
    assert len(set(images)) == len(images) == sum(COUNTS.values())
    assert len(set(captions)) == len(captions) == 5 * sum(COUNTS.values())


def test_karpathy_json_goes_round(world: Path, tmp_path: Path) -> None:
    layout = json.loads((world / "dataset_synthetic.json").read_text())
    assert {image["split"]: None for image in layout["images"]} == dict.fromkeys(SPLITS)
    for split in SPLITS:
        images = [image for image in layout["images"] if image["split"] == split]
        for image, record in zip(images, records(world / split), strict=True):
            assert (image["filename"], image["imgid"]) == (record["filename"], record["image_id"])
            told = [(c["text"], c["id"], c["text"].replace(",", "").split()) for c in record["captions"]]
            assert [(s["raw"], s["sentid"], s["tokens"]) for s in image["sentences"]] == told
            assert (world / "images" / image["filename"]).is_file()


def test_karpathy_json_and_pictures_make_the_same_shards(world: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    karpathy.add_arguments(parser)
    words = [str(world / "dataset_synthetic.json"), str(world / "images"), str(tmp_path / "shards")]
    args = parser.parse_args([*words, "--splits", "test", "--workers", "1"])
    args.verb = "karpathy"
    assert karpathy.main(args) == 0
    imported = {r["filename"]: [c["text"] for c in r["captions"]] for r in records(tmp_path / "shards" / "test")}
    assert imported == {r["filename"]: [c["text"] for c in r["captions"]] for r in records(world / "test")}


def test_regions_tell_what_is_where(world: Path) -> None:
    from data_tools.world.regions import CLASSES, projection

    right = told = 0
    for found, truth in regions_and_truth(world / "val"):
        objects = truth["objects"]
        assert found["features"].shape == (len(objects) + 1, projection().shape[1])
        np.testing.assert_allclose(found["class_probs"].sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(found["boxes"][:-1], [o["box"] for o in objects], atol=0.05)
        right += sum(
            CLASSES[i] == o["shape"] for i, o in zip(found["class_probs"][:-1].argmax(1), objects, strict=True)
        )
        told += len(objects)
    assert 0.9 < right / told < 1  # informative, and soft


def test_region_features_can_be_read_but_are_noisy(world: Path) -> None:
    """A linear reader, fitted by least squares on the true directions, finds shape and colour most of the time."""
    from data_tools.world.regions import FACTS, projection

    reader = np.linalg.pinv(projection())
    shapes = [i for i, (name, _) in enumerate(FACTS) if name == "shape"]
    hits = []
    for found, truth in regions_and_truth(world / "val"):
        scores = found["features"].astype(np.float32)[:-1] @ reader
        hits += [
            FACTS[shapes[s[shapes].argmax()]][1] == o["shape"] for s, o in zip(scores, truth["objects"], strict=True)
        ]
    assert np.mean(hits) > 0.8


def test_no_regions_on_request(tmp_path: Path) -> None:
    run(tmp_path / "world", "--no-regions", "--train", "0", "--val", "0")
    shards = ShardFolder(tmp_path / "world" / "test")
    assert shards.read(0, 0, "regions.safetensors") is None
    assert shards.read(0, 0, "masks.png") is not None


def test_pictures_and_masks_have_the_size_asked_for(tmp_path: Path) -> None:
    run(tmp_path / "world", "--train", "0", "--val", "0", "--size", "96")
    for data in members(tmp_path / "world" / "test", "png"):
        assert decode(data).shape == (3, 96, 96)
    for data in members(tmp_path / "world" / "test", "masks.png"):
        mask = Image.open(io.BytesIO(data))
        assert (mask.size, mask.mode) == ((96, 96), "L")


def test_the_summary_tells_the_ceiling(world: Path) -> None:
    summary = json.loads((world / "summary.json").read_text())
    assert summary["train"]["oracle_R@1"] is None
    assert summary["val"]["oracle_R@1"]["pictures"] == 60
    assert summary["val"]["oracle_R@1"]["text_to_image"] >= 85
    assert 12 <= summary["val"]["words_per_caption"] <= MAX_WORDS
