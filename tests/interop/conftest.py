"""Checkpoints of tiny models with random weights, written without training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.small_run import small_config, write_data
from vlp.config import to_json
from vlp.data.tokenizer import Tokenizer
from vlp.engine import checkpoint
from vlp.engine.session import MODEL
from vlp.training import TrainConfig, build_task


def write_checkpoint(data: Path, run: Path, system: dict[str, Any]) -> Path:
    """The checkpoint of a run that never took a step."""
    config = replace(small_config(data, run, steps=1), **{"teacher": None} | system)
    return save(config, run, data)


def save(config: TrainConfig, run: Path, data: Path) -> Path:
    """A config's task, as a training run writes it."""
    Tokenizer.from_folder(data).save(data)
    files = {
        "config.json": json.dumps(to_json(config)).encode(),
        "tokenizer.json": (data / "tokenizer.json").read_bytes(),
    }
    state = {"seed": config.run.seed, "config": "small.py", "commit": "0123abc", "versions": {"torch": "9.9.9"}}
    return checkpoint.save(run, 1, tensors={MODEL: build_task(config).state_dict()}, files=files, state=state)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "test", pictures=10)


@pytest.fixture(scope="session")
def two_stream(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(data, tmp_path_factory.mktemp("runs") / "two", parts.two_stream())


@pytest.fixture(scope="session")
def one_stream(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(data, tmp_path_factory.mktemp("runs") / "one", parts.one_stream())
