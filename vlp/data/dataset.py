"""Pairs of a shard folder, decoded one at a time as a pure function of (seed, epoch, pair)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from vlp.data.canvas import Canvas
from vlp.data.config import DataConfig
from vlp.data.draws import draws_at
from vlp.data.errors import BadSampleError
from vlp.data.graph import Row, graph_of
from vlp.data.images import Picture, augment, cut_out, resize, swap_sides
from vlp.data.order import sample_at
from vlp.data.record import parse_record
from vlp.data.shards import PICTURES, ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.types import Box, Regions, Sample

FEATURES = "features.safetensors"
REGIONS = "regions.safetensors"
Decoded = TypeVar("Decoded")


@dataclass
class _Look:
    """A picture as one draw of the augmentation shows it."""

    image: Tensor | None
    features: Tensor | None
    regions: Regions | None
    mirrored: bool
    box: Box | None = None


class PairDataset:
    """The (picture, caption) pairs of a folder. With `train` pictures are augmented, drawn from (seed, epoch, pair)."""

    def __init__(
        self, config: DataConfig, folder: Path | str, tokenizer: Tokenizer, *, train: bool, seed: int = 0
    ) -> None:
        self.config = config
        self.shards = ShardFolder(folder, damaged_ok=True)
        self.tokenizer = tokenizer
        cropped = tuple(config.crop_scale) != (1.0, 1.0)
        self.augmented = train and (config.flip or cropped or config.randaugment[0] > 0)
        self.seed = seed
        self._last: tuple[tuple[int, ...], _Look] | None = None
        self._canvas: Canvas | None = None

    def begin(self, canvas: Canvas | None) -> None:
        """Pictures are made on this canvas from now on. None made before is used again: its memory may be lent away."""
        self._canvas, self._last = canvas, None

    def __len__(self) -> int:
        return self.shards.num_captions

    @property
    def num_pictures(self) -> int:
        """Pictures in the folder."""
        return self.shards.num_samples

    @property
    def turns(self) -> int:
        """Positions of one pass: every pair once, or every picture with `captions` of its captions."""
        return self.num_pictures * self.config.captions or len(self)

    def at(self, position: int) -> Sample:
        """The sample at a position of this set's endless order. Raises BadSampleError naming shard, key and cause."""
        config = self.config
        turn, slot = divmod(position, config.captions or 1)
        count = self.num_pictures if config.captions else len(self)
        epoch, number = sample_at(count, self.seed, turn, config.block, config.window or count)
        return self.sample_of(epoch, number, slot) if config.captions else self.sample(epoch, number)

    def caption_length(self, position: int) -> int:
        """Characters of the caption at a position of an order of pairs; 0 for a bad sample."""
        _, pair = sample_at(len(self), self.seed, position, self.config.block, self.config.window or len(self))
        try:
            shard, row, number = self.shards.locate_pair(pair)
            return len(self.record(shard, row)["captions"][number]["text"])
        except (BadSampleError, IndexError):
            return 0

    def sample(self, epoch: int, pair: int) -> Sample:
        """One pair as tensors. Raises BadSampleError naming shard, key and cause."""
        shard, row, number = self.shards.locate_pair(pair)
        return self._sample(shard, row, number, (self.seed, epoch, pair))

    def sample_of(self, epoch: int, picture: int, slot: int) -> Sample:
        """A picture with caption `slot` of the epoch's order of its captions, which begins anew when it ends.

        The picture is augmented once an epoch, for all slots. Raises BadSampleError naming shard, key and cause.
        """
        shard, row = self.shards.locate(picture)
        order = draws_at(self.seed, epoch, picture).permutation(self.shards.captions_of(shard, row))
        return self._sample(shard, row, int(order[slot % len(order)]), (self.seed, epoch, picture))

    def _sample(self, shard: int, row: int, number: int, seeds: tuple[int, int, int]) -> Sample:
        record = self.record(shard, row)
        if number >= len(record["captions"]):
            raise BadSampleError("unreadable record", self.shards.name(shard, row), "fewer captions than in the index")
        caption = record["captions"][number]
        look = self._look_again(shard, row, seeds)
        if look.mirrored:
            caption = caption | {"text": swap_sides(caption["text"])}
        text = caption["text"]
        ids, words = self.tokenizer(text, self.config.max_length)
        return Sample(
            key=self.shards.key(shard, row),
            image_id=record["image_id"],
            caption_id=caption["id"],
            text_ids=ids,
            word_ids=words,
            image=look.image,
            features=look.features,
            regions=look.regions,
            box=look.box,
            tag_ids=self._tags(record, shard, row) if self.config.use_tags else None,
            graph=self._graph(caption, shard, row) if self.config.use_graph else None,
        )

    def _tags(self, record: dict[str, Any], shard: int, row: int) -> list[int]:
        """Pieces of the picture's tags, without [CLS] and [SEP]; at most a caption's length."""
        try:
            ids, _ = self.tokenizer(" ".join(record.get("tags", [])), self.config.max_length + 2)
        except (TypeError, UnicodeEncodeError) as error:
            raise BadSampleError("unreadable tags", self.shards.name(shard, row), str(error)) from error
        return ids[1:-1]

    def _graph(self, caption: dict[str, Any], shard: int, row: int) -> list[Row]:
        try:
            return graph_of(caption, self.tokenizer, self.config.max_length)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            place = self.shards.name(shard, row)
            raise BadSampleError("caption without phrases and nodes", place, str(error)) from error

    def _look_again(self, shard: int, row: int, seeds: tuple[int, int, int]) -> _Look:
        """The picture as these seeds show it. The last one is kept: pairs that follow one another share its tensors."""
        which = (shard, row, *(seeds if self.augmented else ()))
        if self._last is None or self._last[0] != which:
            regions = self.regions(shard, row) if self.config.use_regions else None
            if self.config.use_features:
                look = _Look(None, self.features(shard, row), regions, mirrored=False)
            elif not self.config.use_pictures:
                look = _Look(None, None, regions, mirrored=False)
            else:
                image, mirrored, box = self._picture(shard, row, seeds)
                look = _Look(image, None, regions, mirrored, box)
            self._last = (which, look)
        return self._last[1]

    def members(self) -> set[str]:
        """Suffixes of the members that this config reads."""
        config = self.config
        pictures = PICTURES if config.use_pictures and not config.use_features else ()
        tensors = [FEATURES] * config.use_features + [REGIONS] * config.use_regions
        return {"json", *pictures, *tensors}

    def picture(self, shard: int, row: int) -> Tensor:
        """The decoded picture, (3, height, width) uint8. Raises BadSampleError."""
        return self._decoded(shard, row, lambda data: Picture(data).decode())

    def _decoded(self, shard: int, row: int, decode: Callable[[bytes], Decoded]) -> Decoded:
        for kind in PICTURES:
            data = self.shards.read(shard, row, kind)
            if data is not None:
                try:
                    return decode(data)
                except ValueError as error:
                    raise BadSampleError("undecodable picture", self.shards.name(shard, row), str(error)) from error
        raise BadSampleError("no picture", self.shards.name(shard, row))

    def record(self, shard: int, row: int) -> dict[str, Any]:
        """The sample's json. Raises BadSampleError where it is none or a caption is missing, empty or absurdly long."""
        return parse_record(self.shards.read(shard, row, "json"), lambda: self.shards.name(shard, row))

    def _picture(self, shard: int, row: int, seeds: tuple[int, int, int]) -> tuple[Tensor, bool, Box | None]:
        if self.augmented and self.config.augment_on_device:
            random = draws_at(*seeds)
            part, box = self._decoded(shard, row, lambda data: cut_out(Picture(data), self.config, random))
            return part, box.mirrored, box
        place = self._canvas.row() if self._canvas is not None else None
        if self.augmented:
            random = draws_at(*seeds)
            made = self._decoded(shard, row, lambda data: augment(Picture(data), self.config, random, place))
        else:
            made = resize(self.picture(shard, row), self.config.image_size, place), False
        if self._canvas is not None and made[0] is place:
            self._canvas.keep()
        return *made, None

    def _tensors(self, shard: int, row: int, suffix: str, names: tuple[str, ...]) -> list[Tensor]:
        data = self.shards.read(shard, row, suffix)
        if data is None:
            raise BadSampleError(f"no {suffix}", self.shards.name(shard, row))
        try:
            tensors = load_tensors(data)
            found = [tensors[name].float() for name in names]
        except (SafetensorError, KeyError) as error:
            raise BadSampleError(f"unreadable {suffix}", self.shards.name(shard, row), str(error)) from error
        if any(tensor.ndim != 2 or len(tensor) != len(found[0]) for tensor in found):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            raise BadSampleError(f"unreadable {suffix}", self.shards.name(shard, row), f"shapes {shapes}")
        return found

    def features(self, shard: int, row: int) -> Tensor:
        """Cached vision tokens (N, D). Raises BadSampleError."""
        return self._tensors(shard, row, FEATURES, ("tokens",))[0]

    def regions(self, shard: int, row: int) -> Regions:
        """A picture's regions, without the batch dimension. Raises BadSampleError."""
        features, boxes, probs = self._tensors(shard, row, REGIONS, ("features", "boxes", "class_probs"))
        return Regions(features, boxes, probs, mask=torch.ones(len(boxes), dtype=torch.bool))
