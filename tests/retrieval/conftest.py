"""A small evaluation set with one to three captions a picture, and tiny models to rank it."""

from pathlib import Path

import pytest
import torch

from tests.data.conftest import WORDS, jpeg, record
from vlp.config import build
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.shards import ShardWriter
from vlp.data.tokenizer import Tokenizer
from vlp.model import VLModel


@pytest.fixture
def dataset(tmp_path: Path) -> EvaluationSet:
    folder = tmp_path / "set"
    with ShardWriter(folder, samples_per_shard=4) as writer:
        for i in range(9):
            captions = [" ".join(WORDS[(i + j + k) % 9] for k in range(1 + (i + j) % 5)) for j in range(1 + i % 3)]
            writer.add(f"{i}", {"jpg": jpeg(i), "json": record(i, captions)})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return EvaluationSet(DataConfig(image_size=32), folder, Tokenizer.from_folder(folder))


def model(system: object, seed: int = 0) -> VLModel:
    torch.manual_seed(seed)
    made: VLModel = build(system()["model"])  # type: ignore[operator]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()
