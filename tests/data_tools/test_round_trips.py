"""From every source through `vlp data ...`, the check, and a training step: the counts are the same from end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.small_run import small_config
from vlp import cli
from vlp.data.dataset import PairDataset
from vlp.data.loader import TrainLoader
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.training import TrainConfig, run

SHARED = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"
Counts = tuple[int, int]


def data(*arguments: Path | str) -> int:
    return cli.main(["data", *map(str, arguments), "--workers", "1"])


def counts(folder: Path) -> Counts:
    shards = ShardFolder(folder)
    return shards.num_samples, shards.num_captions


def checked(folder: Path, expected: Counts) -> None:
    """The index, the check and reading pair by pair agree on pictures and captions."""
    assert counts(folder) == expected
    assert data("check", folder) == 0
    report = json.loads((folder / "check.json").read_text())
    assert (report["good"], report["captions"], report["bad"]) == (*expected, 0)


def trained(config: TrainConfig, folder: Path, expected: Counts) -> None:
    """An epoch shows every pair once, and a step is made of them."""
    dataset = PairDataset(config.data, folder, Tokenizer.from_folder(folder), train=True)
    config.data.batch_size = len(dataset)
    batch = next(TrainLoader(config.data, dataset).batches(0))
    assert (len(batch.image_id.unique()), len(batch.caption_id.unique())) == expected
    config.data.batch_size = min(8, len(dataset))
    config.run.steps, config.run.checkpoint_every, config.run.eval_every = 1, 0, 0
    assert run(config)["loss"] > 0


def vocabulary(folder: Path, texts: list[str]) -> None:
    words_ = sorted({word.strip(".,").lower() for text in texts for word in text.split()})[:40]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words_]) + "\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world with regions, its pictures as files too."""
    folder = tmp_path_factory.mktemp("round") / "world"
    sizes = ("--train", "16", "--val", "4", "--test", "0", "--size", "32", "--regions", "--pictures")
    assert data("synthesize", folder, *sizes) == 0
    return folder


def entries(world: Path) -> list[dict[str, Any]]:
    told = json.loads((world / "dataset_synthetic.json").read_text())["images"]
    return [entry for entry in told if entry["split"] == "train"]


def small(folder: Path, out: Path) -> TrainConfig:
    config = small_config(folder, out)
    config.data.val = ""
    return config


def test_the_synthetic_world_with_regions(world: Path, tmp_path: Path) -> None:
    train, expected = tmp_path / "train", (16, 16 * 5)
    shutil.copytree(world / "train", train)
    checked(train, expected)
    assert data("pack", train, tmp_path / "packed", "--samples-per-shard", "5", "--shuffle", "1") == 0
    checked(tmp_path / "packed", expected)
    config = region_system(tmp_path / "packed", tmp_path / "run")
    trained(config, tmp_path / "packed", expected)


def region_system(folder: Path, out: Path) -> TrainConfig:
    """A one-stream system on regions."""
    from configs.systems.uniter import tiny as uniter

    config = uniter()
    config.data.train, config.data.val, config.run.out = str(folder), "", str(out)
    return config


def test_a_karpathy_layout(world: Path, tmp_path: Path) -> None:
    assert data("karpathy", world / "dataset_synthetic.json", world / "images", tmp_path / "set") == 0
    folder = tmp_path / "set" / "train"
    checked(folder, (16, 16 * 5))
    shutil.copy2(world / "train" / "tokenizer.json", folder)
    trained(world_system(folder, tmp_path / "run"), folder, (16, 16 * 5))


def world_system(folder: Path, out: Path) -> TrainConfig:
    """The two-stream system of configs/debug.py."""
    from configs.debug import config as debug

    config = debug()
    config.data.train, config.data.val, config.run.out = str(folder), "", str(out)
    return config


def test_a_folder_of_img2dataset(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "laion"
    folder.mkdir()
    told = entries(world)
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), encoder=False) as tar:
            for i, entry in enumerate(told[8 * shard : 8 * shard + 8]):
                text = entry["sentences"][0]["raw"]
                key = f"{shard:05d}{i:04d}"
                record = {"caption": text, "key": key, "status": "success", "url": "-"}
                picture = (world / "images" / entry["filename"]).read_bytes()
                sample = {"png": picture, "txt": text.encode(), "json": json.dumps(record).encode()}
                tar.write({"__key__": key, **sample})
    assert data("img2dataset", folder) == 0
    checked(folder, (16, 16))
    shutil.copy2(world / "train" / "tokenizer.json", folder)
    trained(world_system(folder, tmp_path / "run"), folder, (16, 16))


def test_a_json_of_albef(world: Path, tmp_path: Path) -> None:
    told = [{"image": e["filename"], "caption": s["raw"]} for e in entries(world) for s in e["sentences"]]
    (tmp_path / "train.json").write_text(json.dumps(told))
    assert data("albef", tmp_path / "train.json", world / "images", tmp_path / "set") == 0
    folder = tmp_path / "set" / "train"
    checked(folder, (16, 16 * 5))
    shutil.copy2(world / "train" / "tokenizer.json", folder)
    trained(world_system(folder, tmp_path / "run"), folder, (16, 16 * 5))


@pytest.mark.slow
def test_flickr8k(world: Path, tmp_path: Path) -> None:
    """All of Flickr8k where it is, else the synthetic world in the same layout."""
    place = SHARED if SHARED.is_dir() else world
    file = next(place.glob("dataset_*.json"))
    assert data("flickr", file, place / "images", tmp_path / "set") == 0
    told = json.loads(file.read_text())["images"]
    for split in sorted({entry["split"] for entry in told} - {"test"}):
        own = [entry for entry in told if entry["split"] == split]
        expected = len(own), sum(len(entry["sentences"]) for entry in own)
        folder = tmp_path / "set" / split
        assert data("check", folder, "--allow-duplicates") == 0
        report = json.loads((folder / "check.json").read_text())
        assert (counts(folder), (report["good"], report["captions"])) == (expected, expected)
        vocabulary(folder, [s["raw"] for entry in own for s in entry["sentences"]])
        config = small(folder, tmp_path / f"run-{split}")
        config.data.captions = 5  # each picture decoded once
        assert {len(entry["sentences"]) for entry in own} == {5}
        trained(config, folder, expected)
