"""Cached features: a run on them sees what a run on pictures sees."""

from pathlib import Path

import torch

from tests.data.conftest import jpeg, record
from vlp import cli
from vlp.config import build, load_config
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.loader import TrainLoader
from vlp.data.shards import ShardWriter
from vlp.data.tokenizer import Tokenizer

CONFIG = """
from configs.debug import config as debug

def config():
    run = debug()
    run.model.kwargs["vision"].kwargs |= {"frozen_blocks": 1, "merge": 2}
    run.model.kwargs["vision"].kwargs["options"]["depth"] = 2
    return run
"""


def test_streams_of_cached_features_are_those_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(CONFIG)
    with ShardWriter(tmp_path / "set", samples_per_shard=3) as writer:
        for i in range(7):
            writer.add(f"{i}", {"jpg": jpeg(i), "json": record(i, ["a dog", "a tree"])})
    (tmp_path / "set" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]))
    torch.manual_seed(0)
    words = ["data", "features", str(tmp_path / "frozen.py"), str(tmp_path / "set"), str(tmp_path / "out")]
    assert cli.main([*words, "--precision", "no", "--batch-size", "4"]) == 0
    torch.manual_seed(0)
    vision = build(load_config(str(tmp_path / "frozen.py")).model.kwargs["vision"]).eval()
    batches = []
    for folder, cached in (("set", False), ("out", True)):
        config = DataConfig(image_size=32, batch_size=14, use_features=cached)
        tokenizer = Tokenizer.from_folder(tmp_path / folder)
        dataset = PairDataset(config, tmp_path / folder, tokenizer, train=True)
        batches.append(next(TrainLoader(config, dataset).batches(0)))
    assert batches[0].keys == batches[1].keys
    assert batches[1].image is None
    with torch.no_grad():
        pictures, features = vision(batches[0]).tokens, vision(batches[1]).tokens
    assert pictures.shape[1] == 1 + 4  # 16 patches merged two by two
    torch.testing.assert_close(features, pictures, rtol=1e-2, atol=1e-2)  # fp16 on disk
