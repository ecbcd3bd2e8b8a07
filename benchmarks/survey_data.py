"""What the survey trains and measures on, held in memory: tokens of frozen encoders made once, or detector regions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from vlp.config import build
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.graph import graph_of
from vlp.data.tokenizer import Tokenizer
from vlp.types import Batch, Graph, Regions, Tags


@dataclass
class Store:
    """I pictures of up to N tokens, T captions of up to L pieces, and which belong together."""

    images: Tensor  # (I, N, D) float16 tokens, or region features
    image_mask: Tensor  # (I, N) bool
    boxes: Tensor  # (I, N, 4), zeros where pictures are no regions
    ids: Tensor  # (T, L) int64
    text_mask: Tensor  # (T, L) bool
    texts: Tensor  # (T, L, D) float16 tokens, or (T, 0, 0) where captions are read from their ids
    text_image: Tensor  # (T,) int64
    twin: Tensor  # (I,) int64: the picture that differs from this one in a single fact, -1 where there is none
    twin_kind: Tensor  # (I,) int64: 0 no twin, 1 it differs in the look of one thing, 2 in a relation of two
    tags: Tensor | None = None  # (I, T) int64, -1 behind a picture's last; None where they were not asked for
    graph: Tensor | None = None  # (T, L, 4) int16: the fields of Graph, of each piece; None where not asked for

    def save(self, path: Path) -> None:
        """Write beside and rename."""
        part = path.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in vars(self).items() if value is not None}, part)
        part.replace(path)

    @staticmethod
    def load(path: Path) -> "Store":
        """Read what `save` wrote."""
        return Store(**load_file(path))

    def pictures(self, numbers: Tensor) -> dict[str, Any]:
        """The fields of a batch that hold these pictures."""
        tokens, mask = self.images[numbers].float(), self.image_mask[numbers]
        tags = None if self.tags is None else self.tags[numbers]
        told = {} if tags is None else {"tags": Tags(tags.clamp(min=0), tags >= 0)}
        if self.texts.numel():
            return {"features": tokens} | told
        return {"regions": Regions(tokens, self.boxes[numbers], tokens.new_zeros(*mask.shape, 1), mask)} | told

    def batch(self, captions: Tensor, pictures: Tensor | None = None) -> Batch:
        """These captions, padded to the longest, with their pictures (or those given, in place of their own)."""
        owners = self.text_image[captions] if pictures is None else pictures
        distinct, row = owners.unique(return_inverse=True)
        mask = self.text_mask[captions]
        mask = mask[:, : int(mask.sum(1).max())]
        length = mask.shape[1]
        return Batch(
            text_ids=self.ids[captions, :length],
            text_mask=mask,
            word_ids=torch.where(mask, torch.arange(length), -1),
            image_id=owners,
            caption_id=captions,
            text_features=self.texts[captions, :length].float() if self.texts.numel() else None,
            graph=None if self.graph is None else Graph(*self.graph[captions, :length].long().unbind(2)),
            image_row=row,
            **self.pictures(distinct),
        )

    def blocks(self, size: int) -> Iterator[Batch]:
        """Every picture once, in order, each with its first caption."""
        first = torch.full((len(self.images),), len(self.text_image)).scatter_reduce(
            0, self.text_image, torch.arange(len(self.text_image)), "amin"
        )
        for numbers in torch.arange(len(self.images)).split(size):
            yield self.batch(first[numbers])

    def caption_blocks(self, size: int) -> Iterator[tuple[Tensor, Batch]]:
        """Every caption once, sorted by length: their numbers, and a batch of them."""
        for numbers in self.text_mask.sum(1).argsort(stable=True).split(size):
            yield numbers, self.batch(numbers)


def store(cache: Path, folder: str, stem: Any, settings: DataConfig, limit: int | None) -> Store:
    """The store of a shard folder, from `cache` where it was made before with the same limit, and with tags and graphs
    if `settings` ask for them."""
    name = f"{Path(folder).parent.name}-{Path(folder).name}-{limit or 'all'}.safetensors"
    if not (cache / name).is_file() or lacks(Store.load(cache / name), settings):
        cache.mkdir(parents=True, exist_ok=True)
        tokenizer = Tokenizer.from_folder(settings.tokenizer or folder)
        dataset = EvaluationSet(settings, folder, tokenizer, limit=limit)
        (regions(dataset) if settings.use_regions else encoded(dataset, stem)).save(cache / name)
    return Store.load(cache / name)


def lacks(made: Store, settings: DataConfig) -> bool:
    """Whether a store has been made without what is asked for by now."""
    return (settings.use_tags and made.tags is None) or (settings.use_graph and made.graph is None)


@torch.inference_mode()
def encoded(dataset: EvaluationSet, stem: Any, size: int = 32) -> Store:
    """Last-level tokens of the stem's frozen encoders; a cached prefix is used where the shards hold one."""
    vision, text = build(stem.vision).eval(), build(stem.text).eval()
    images, words = [], [torch.empty(0)] * dataset.num_texts
    for batch in tqdm(dataset.image_batches(size), desc="pictures", total=-(-dataset.num_images // size), disable=None):
        images.append(vision(batch.to("cpu")).tokens[..., -stem.image_width :].half())
    for batch in tqdm(dataset.text_batches(size), desc="captions", total=-(-dataset.num_texts // size), disable=None):
        stream = text(batch.text_ids, batch.text_mask)
        for number, tokens, mask in zip(batch.caption_id.tolist(), stream.tokens, stream.mask, strict=True):
            words[number] = tokens[mask].half()
    tokens = torch.cat(images)
    return Store(
        tokens,
        torch.ones(tokens.shape[:2], dtype=torch.bool),
        torch.zeros(*tokens.shape[:2], 4),
        *_captions(dataset),
        pad_sequence(words, batch_first=True),
        dataset.text_image,
        *twins(dataset),
        tags(dataset),
        graph(dataset),
    )


def regions(dataset: EvaluationSet) -> Store:
    """The detector's regions as they are."""
    found = [
        batch.regions
        for batch in tqdm(dataset.image_batches(1), desc="regions", total=dataset.num_images, disable=None)
    ]
    present = [r for r in found if r is not None]
    features = pad_sequence([r.features[0] for r in present], batch_first=True)
    return Store(
        features.half(),
        pad_sequence([r.mask[0] for r in present], batch_first=True),
        pad_sequence([r.boxes[0] for r in present], batch_first=True),
        *_captions(dataset),
        torch.empty(dataset.num_texts, 0, 0),
        dataset.text_image,
        *twins(dataset),
        tags(dataset),
        graph(dataset),
    )


def twins(dataset: EvaluationSet) -> tuple[Tensor, Tensor]:
    """Each picture's twin and the kind of their difference, where the shards tell (the synthetic world)."""
    twin = torch.full((dataset.num_images,), -1)
    kind = torch.zeros(dataset.num_images, dtype=torch.long)
    numbers = {key: number for number, key in enumerate(dataset.keys)}
    shards = dataset.dataset.shards
    for number in range(dataset.num_images):
        data = shards.read(*shards.locate(number), "truth.json")
        told = json.loads(data)["twin"] if data is not None else None
        if told and told["key"] in numbers:
            twin[number] = numbers[told["key"]]
            kind[number] = 1 + (told["attribute"] == "relation")
    return twin, kind


def tags(dataset: EvaluationSet) -> Tensor | None:
    """(I, T) word pieces of each picture's tags, -1 behind the last; None where the data is read without."""
    if not dataset.dataset.config.use_tags:
        return None
    found = [batch.tags.ids[0] for batch in dataset.image_batches(1) if batch.tags is not None]
    return pad_sequence(found, batch_first=True, padding_value=-1)


def graph(dataset: EvaluationSet) -> Tensor | None:
    """(T, L, 4) what each piece of each caption speaks of; None where the data is read without."""
    if not dataset.dataset.config.use_graph:
        return None
    read = dataset.dataset
    records = (read.record(*read.shards.locate(number)) for number in range(dataset.num_images))
    rows = [
        torch.tensor(graph_of(caption, read.tokenizer, read.config.max_length), dtype=torch.int16)
        for record in records
        for caption in record["captions"]
    ]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    padded[:, :, 0].clamp_(min=0)  # no kind is 0, no number -1
    return padded


def _captions(dataset: EvaluationSet) -> tuple[Tensor, Tensor]:
    """(T, L) ids and mask, in the order of the captions."""
    rows = [torch.empty(0)] * dataset.num_texts
    for batch in dataset.text_batches(256):
        for number, ids, mask in zip(batch.caption_id.tolist(), batch.text_ids, batch.text_mask, strict=True):
            rows[number] = ids[mask]
    lengths = torch.tensor([len(row) for row in rows])
    padded = pad_sequence(rows, batch_first=True)
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None]
