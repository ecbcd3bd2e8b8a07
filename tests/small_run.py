"""A data set of a few dozen pictures and a run over it, small enough to train in a second."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests import parts
from vlp.data.config import DataConfig
from vlp.data.shards import ShardWriter
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

RUN: dict[str, Any] = {"steps": 12, "checkpoint_every": 3, "log_every": 1, "eval_every": 5, "seed": 3}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(parts.VOCAB - len(SPECIALS))]


def write_data(folder: Path, pictures: int = 20) -> Path:
    """Noise pictures with two random captions each, and a vocabulary beside them."""
    random = np.random.default_rng(0)
    with ShardWriter(folder, samples_per_shard=8) as writer:
        for i in range(pictures):
            png = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(png, "png")
            captions = [
                {"id": 2 * i + k, "text": " ".join(random.choice(WORDS, random.integers(3, 9)))} for k in range(2)
            ]
            record = {"image_id": i, "filename": f"{i}.png", "captions": captions}
            writer.add(f"{i:06d}", {"png": png.getvalue(), "json": json.dumps(record).encode()})
    (folder / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]) + "\n")
    return folder


def small_config(data: Path | str, out: Path | str, **run: Any) -> TrainConfig:
    """ALBEF's wiring with teacher, queue, dropout and cropped pictures; RunConfig's fields in `run`."""
    return TrainConfig(
        **parts.two_stream(dropout=0.1),
        data=DataConfig(
            train=str(data),
            val=str(data),
            image_size=parts.SIZE,
            max_length=14,
            batch_size=8,
            crop_scale=(0.5, 1.0),
            flip=True,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=3),
        run=RunConfig(**(RUN | {"out": str(out)} | run)),
        evaluation=EvaluationConfig(k=4, limit=8),
    )
