"""A small folder of shards made by the test run."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlp.data.shards import ShardWriter

WORDS = ["a", "dog", "left", "right", "of", "tree", "red", "blue", "runs", "##ning"]


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """A smooth random picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    return out.getvalue()


def record(number: int, captions: list[str]) -> bytes:
    """A sample's json."""
    told = [{"id": number * 10 + i, "text": text} for i, text in enumerate(captions)]
    return json.dumps({"image_id": number, "filename": f"{number}.jpg", "captions": told}).encode()


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """make_shards(count, per_shard, members=...) -> folder with a vocabulary."""

    def make(count: int = 10, per_shard: int = 4, name: str = "set", change: Callable[..., Any] | None = None) -> Path:
        folder = tmp_path / name
        with ShardWriter(folder, samples_per_shard=per_shard) as writer:
            for i in range(count):
                members = {"jpg": jpeg(i), "json": record(i, [f"a dog {WORDS[j]}" for j in range(1 + i % 3)])}
                writer.add(f"{i:05d}", change(i, members) if change else members)
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
        return folder

    return make
