"""Cached features: a run on them sees what a run on pictures sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_tools import features
from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.config import load_config
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.images import Picture, augment, normalise, resize
from vlp.data.loader import TrainLoader
from vlp.data.shards import ShardFolder, ShardWriter
from vlp.data.tokenizer import Tokenizer
from vlp.training import build_task

CONFIG = """
from configs.debug import config as debug

def config():
    run = debug()
    run.model.kwargs["vision"].kwargs |= {"frozen_blocks": 1, "merge": 2}
    run.model.kwargs["vision"].kwargs["options"]["depth"] = 2
    return run
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A config with a frozen prefix of random weights beside 7 pictures in 3 shards."""
    (tmp_path / "frozen.py").write_text(CONFIG)
    with ShardWriter(tmp_path / "set", samples_per_shard=3) as writer:
        for i in range(7):
            writer.add(f"{i}", {"jpg": jpeg(i), "json": record(i, ["a dog", "a tree"])})
    (tmp_path / "set" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    return tmp_path


def run(source: Path, *extra: str) -> int:
    words = ["data", "features", str(source / "frozen.py"), str(source / "set"), str(source / "out")]
    return cli.main([*words, "--precision", "no", "--batch-size", "4", *extra])


def test_streams_of_cached_features_are_those_of_pictures_in_the_run(source: Path) -> None:
    torch.manual_seed(99)
    assert run(source) == 0
    vision = build_task(load_config(str(source / "frozen.py"))).model.vision.eval()  # as the run builds it
    batches = []
    for folder, cached in (("set", False), ("out", True)):
        config = DataConfig(image_size=32, batch_size=14, use_features=cached)
        tokenizer = Tokenizer.from_folder(source / folder)
        dataset = PairDataset(config, source / folder, tokenizer, train=True)
        batches.append(next(TrainLoader(config, dataset).batches(0)).to("cpu"))
    assert batches[0].keys == batches[1].keys
    assert batches[1].image is None
    with torch.no_grad():
        pictures, features = vision(batches[0]).tokens, vision(batches[1]).tokens
    assert pictures.shape[1] == 1 + 4  # 16 patches merged two by two
    torch.testing.assert_close(features, pictures, rtol=1e-2, atol=1e-2)  # fp16 on disk


def test_an_interrupted_run_goes_on_and_a_complete_one_is_kept(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = features.with_features

    def watched(shards: Any, numbers: range, *others: Any) -> Any:
        if numbers.start == 4:
            raise KeyboardInterrupt
        return real(shards, numbers, *others)

    with monkeypatch.context() as patch:
        patch.setattr(features, "with_features", watched)
        assert run(source) == 130
    first = source / "out" / "shard-000000.tar"
    before = first.stat().st_mtime_ns
    assert not (source / "out" / "index.json").exists()
    assert run(source) == 0
    assert first.stat().st_mtime_ns == before
    shards = ShardFolder(source / "out")
    assert [shards.key(*shards.locate(i)) for i in range(7)] == [str(i) for i in range(7)]
    assert all(shards.has(*shards.locate(i), "features.safetensors") for i in range(7))
    index = (source / "out" / "index.json").stat().st_mtime_ns
    assert run(source) == 0
    assert (source / "out" / "index.json").stat().st_mtime_ns == index


def test_features_of_other_settings_are_not_taken_for_these(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--drop-pictures") == 0
    assert not ShardFolder(source / "out").has(0, 0, "jpg")
    assert run(source) == 2
    assert "out was begun with other drop_pictures" in capsys.readouterr().err
    assert run(source, "--drop-pictures", "data.mean=(0.1, 0.1, 0.1)") == 2
    assert "other scales" in capsys.readouterr().err


def test_a_model_without_a_frozen_prefix_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "model.vision.frozen_blocks=0") == 2
    assert "no frozen prefix; set model.vision.frozen_blocks" in capsys.readouterr().err


def test_views_are_augmented_samples_of_the_same_picture(source: Path) -> None:
    with ShardWriter(source / "sided", samples_per_shard=3) as writer:
        for i in range(7):
            writer.add(f"{i}", {"jpg": jpeg(i), "json": record(i, ["a dog on the left", "Right of a tree"])})
    (source / "set" / "vocab.txt").rename(source / "sided" / "vocab.txt")
    options = ["--precision", "no", "--batch-size", "4", "--views", "3", "data.flip=true", "data.crop_scale=(0.5, 1.0)"]
    assert (
        cli.main(
            ["data", "features", str(source / "frozen.py"), *(str(source / n) for n in ("sided", "out")), *options]
        )
        == 0
    )
    config = load_config(str(source / "frozen.py"))
    config.data.flip, config.data.crop_scale = True, (0.5, 1.0)
    vision = build_task(config).model.vision.eval()
    shards, plain = ShardFolder(source / "out"), ShardFolder(source / "sided")
    keys = [shards.key(*shards.locate(i)) for i in range(21)]
    assert keys[:6] == ["0", "0-1", "0-2", "1", "1-1", "1-2"]
    data = DataConfig(image_size=32, use_features=True)
    dataset = PairDataset(data, source / "out", Tokenizer.from_folder(source / "out"), train=False)
    sides = set()
    for i in range(21):
        number, view = divmod(i, 3)
        raw = Picture(plain.read(*plain.locate(number), "jpg"))  # type: ignore[arg-type]
        random = np.random.default_rng((config.run.seed, number, view))
        picture, mirrored = augment(raw, config.data, random) if view else (raw.decode(), False)
        with torch.no_grad():
            tokens = vision.prefix(normalise(resize(picture, 32), config.data)[None])[0]
        torch.testing.assert_close(dataset.sample_of(0, i, 0).features, tokens, rtol=1e-2, atol=1e-2)
        captions = dataset.record(*shards.locate(i))["captions"]
        assert dataset.record(*shards.locate(i))["image_id"] == number
        assert captions[0]["text"] == ("a dog on the right" if mirrored else "a dog on the left")
        sides.add(mirrored)
    assert sides == {True, False}
