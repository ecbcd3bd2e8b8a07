"""Phrases and nodes of a caption on its word pieces, and tags, from shards to a batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import BadSampleError
from vlp.data.graph import graph_of
from vlp.data.tokenizer import Tokenizer

CAPTION = {
    "text": "a red dog left of a tree",
    "phrases": [{"span": [0, 9], "objects": [2]}, {"span": [18, 24], "objects": [0, 1]}],
    "nodes": [
        {"span": [2, 5], "kind": "attribute"},
        {"span": [6, 9], "kind": "object"},
        {"span": [10, 17], "kind": "relation"},
        {"span": [20, 24], "kind": "object"},
    ],
}
ROWS = [  # [CLS] a red dog left of a tree [SEP]
    (0, -1, -1, -1),
    (0, -1, 0, 2),
    (2, 0, 0, 2),
    (1, 1, 0, 2),
    (3, 2, -1, -1),
    (3, 2, -1, -1),
    (0, -1, 1, -1),
    (1, 3, 1, -1),
    (0, -1, -1, -1),
]


def test_pieces_know_their_node_phrase_and_region(make_shards: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_folder(make_shards())
    assert graph_of(CAPTION, tokenizer, 20) == ROWS
    assert graph_of(CAPTION, tokenizer, 4) == [*ROWS[:3], (0, -1, -1, -1)]  # as the caption is cut


def test_they_reach_the_batch_with_the_tags(make_shards: Callable[..., Path]) -> None:
    def told(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        captions: list[dict[str, Any]] = [{"id": i, **CAPTION}]
        record = {"image_id": i, "filename": "x", "tags": ["dog", "red"][: 1 + i % 2], "captions": captions}
        return members | {"json": json.dumps(record).encode()}

    folder = make_shards(4, change=told)
    config = DataConfig(use_tags=True, use_graph=True, image_size=8)
    dataset = PairDataset(config, folder, Tokenizer.from_folder(folder), train=True)
    batch = collate([dataset.sample(0, i) for i in range(2)], 0)
    assert batch.tags is not None
    assert batch.graph is not None
    assert batch.tags.mask.tolist() == [[True, False], [True, True]]
    assert [dataset.tokenizer.decode(ids) for ids in batch.tags.ids.tolist()][1] == "dog red"
    assert batch.graph.kind[0].tolist() == [row[0] for row in ROWS]
    assert batch.graph.region[1].tolist() == [row[3] for row in ROWS]


def test_a_caption_without_them_is_a_bad_sample(make_shards: Callable[..., Path]) -> None:
    folder = make_shards(2)
    dataset = PairDataset(DataConfig(use_graph=True), folder, Tokenizer.from_folder(folder), train=True)
    with pytest.raises(BadSampleError, match="without phrases and nodes"):
        dataset.sample(0, 0)
