"""Pairs of a shard folder, decoded one at a time as a pure function of (seed, epoch, pair)."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from vlp.data.config import DataConfig
from vlp.data.errors import BadSampleError, DataError
from vlp.data.graph import Row, graph_of
from vlp.data.images import augment, decode, looks_whole, normalise, resize, swap_sides
from vlp.data.shards import PICTURES, ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.types import Regions, Sample

MAX_CHARACTERS = 10_000  # a longer caption is no caption
FEATURES = "features.safetensors"
REGIONS = "regions.safetensors"


@dataclass
class _Look:
    """A picture as one draw of the augmentation shows it."""

    image: Tensor | None
    features: Tensor | None
    regions: Regions | None
    mirrored: bool


class PairDataset:
    """The (picture, caption) pairs of a folder. With `train` pictures are augmented, drawn from (seed, epoch, pair)."""

    def __init__(
        self, config: DataConfig, folder: Path | str, tokenizer: Tokenizer, *, train: bool, seed: int = 0
    ) -> None:
        self.config = config
        self.shards = ShardFolder(folder)
        self.tokenizer = tokenizer
        self.augmented = train and (config.flip or tuple(config.crop_scale) != (1.0, 1.0))
        self.seed = seed
        self._last: tuple[tuple[int, ...], _Look] | None = None

    def __len__(self) -> int:
        return self.shards.num_captions

    @property
    def num_pictures(self) -> int:
        """Pictures in the folder."""
        return self.shards.num_samples

    def sample(self, epoch: int, pair: int) -> Sample:
        """One pair as tensors. Raises BadSampleError naming shard, key and cause."""
        shard, row, number = self.shards.locate_pair(pair)
        return self._sample(shard, row, number, (self.seed, epoch, pair))

    def sample_of(self, epoch: int, picture: int, slot: int) -> Sample:
        """A picture with caption `slot` of the epoch's order of its captions, which begins anew when it ends.

        The picture is augmented once an epoch, for all slots. Raises BadSampleError naming shard, key and cause.
        """
        shard, row = self.shards.locate(picture)
        order = np.random.default_rng((self.seed, epoch, picture)).permutation(self.shards.captions_of(shard, row))
        return self._sample(shard, row, int(order[slot % len(order)]), (self.seed, epoch, picture))

    def _sample(self, shard: int, row: int, number: int, seeds: tuple[int, int, int]) -> Sample:
        record = self.record(shard, row)
        caption = record["captions"][number]
        look = self._look_again(shard, row, seeds)
        if look.mirrored:
            caption = caption | {"text": swap_sides(caption["text"])}
        text = caption["text"]
        ids, words = self.tokenizer(text, self.config.max_length)
        return Sample(
            key=self.shards.key(shard, row),
            image_id=int(record["image_id"]),
            caption_id=int(caption["id"]),
            text_ids=ids,
            word_ids=words,
            image=look.image,
            features=look.features,
            regions=look.regions,
            tag_ids=self._tags(record) if self.config.use_tags else None,
            graph=self._graph(caption, self.shards.name(shard, row)) if self.config.use_graph else None,
        )

    def _tags(self, record: dict[str, Any]) -> list[int]:
        """Pieces of the picture's tags, without [CLS] and [SEP]; at most a caption's length."""
        ids, _ = self.tokenizer(" ".join(record.get("tags", [])), self.config.max_length + 2)
        return ids[1:-1]

    def _graph(self, caption: dict[str, Any], place: str) -> list[Row]:
        try:
            return graph_of(caption, self.tokenizer, self.config.max_length)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise BadSampleError("caption without phrases and nodes", place, str(error)) from error

    def _look_again(self, shard: int, row: int, seeds: tuple[int, int, int]) -> _Look:
        """The picture as these seeds show it. The last one is kept: pairs that follow one another share its tensors."""
        which = (shard, row, *(seeds if self.augmented else ()))
        if self._last is None or self._last[0] != which:
            regions = self._regions(shard, row) if self.config.use_regions else None
            if self.config.use_features:
                look = _Look(None, self._features(shard, row), regions, mirrored=False)
            elif not self.config.use_pictures:
                look = _Look(None, None, regions, mirrored=False)
            else:
                image, mirrored = self._picture(shard, row, seeds)
                look = _Look(image, None, regions, mirrored)
            self._last = (which, look)
        return self._last[1]

    def picture(self, shard: int, row: int) -> Tensor:
        """The decoded picture, (3, height, width) uint8. Raises BadSampleError."""
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
        data = self.shards.read(shard, row, "json")
        try:
            record: dict[str, Any] = json.loads(data or b"")
            texts = [caption["text"] for caption in record["captions"]]
        except (ValueError, KeyError, TypeError) as error:
            raise BadSampleError("unreadable record", self.shards.name(shard, row), str(error)) from error
        if not texts or any(not text.strip() for text in texts):
            raise BadSampleError("caption without text", self.shards.name(shard, row))
        if any(len(text) > MAX_CHARACTERS for text in texts):
            raise BadSampleError("caption too long", self.shards.name(shard, row), f"over {MAX_CHARACTERS} characters")
        return record

    def preflight(self, decoded: int = 64, limit: int = 100_000) -> None:
        """Look before a run starts: every record and the end of every picture (up to `limit`), and decode some.

        Raises DataError naming the bad samples when their share passes `max_bad_share`, else warns.
        """
        count = min(self.num_pictures, limit)
        looked = np.linspace(0, self.num_pictures - 1, count).astype(int)
        deep = set(looked[np.linspace(0, count - 1, min(decoded, count)).astype(int)].tolist())
        bad = [error for i in looked.tolist() if (error := self._look(*self.shards.locate(i), i in deep))]
        if not bad:
            return
        named = "\n  ".join(str(error) for error in bad[:10])
        message = f"{len(bad)} of {count} samples of {self.shards.folder} are bad:\n  {named}"
        if len(bad) > self.config.max_bad_share * count:
            raise DataError(f"{message}\nMend or drop them and make the shards again, or raise data.max_bad_share")
        warnings.warn(message, stacklevel=2)

    def _look(self, shard: int, row: int, deep: bool) -> BadSampleError | None:
        try:
            self.record(shard, row)
            if self.config.use_regions:
                self._look_at_tensors(shard, row, REGIONS, deep)
            if self.config.use_features:
                self._look_at_tensors(shard, row, FEATURES, deep)
            elif self.config.use_pictures:
                self._look_at_end(shard, row)
                if deep:
                    self.picture(shard, row)
        except BadSampleError as error:
            return error
        return None

    def _look_at_tensors(self, shard: int, row: int, suffix: str, deep: bool) -> None:
        if not self.shards.has(shard, row, suffix):
            raise BadSampleError(f"no {suffix}", self.shards.name(shard, row))
        if deep:
            self._features(shard, row) if suffix == FEATURES else self._regions(shard, row)

    def _look_at_end(self, shard: int, row: int) -> None:
        for kind in PICTURES:
            tail = self.shards.tail(shard, row, kind, 64)
            if tail is not None:
                if not looks_whole(kind, tail):
                    self.picture(shard, row)  # decoding decides: some writers put data behind the end
                return
        raise BadSampleError("no picture", self.shards.name(shard, row))

    def _picture(self, shard: int, row: int, seeds: tuple[int, int, int]) -> tuple[Tensor, bool]:
        picture, mirrored = self.picture(shard, row), False
        if self.augmented:
            picture, mirrored = augment(picture, self.config, np.random.default_rng(seeds))
        return normalise(resize(picture, self.config.image_size), self.config), mirrored

    def _tensors(self, shard: int, row: int, suffix: str, names: tuple[str, ...]) -> dict[str, Tensor]:
        data, place = self.shards.read(shard, row, suffix), self.shards.name(shard, row)
        if data is None:
            raise BadSampleError(f"no {suffix}", place)
        try:
            tensors = load_tensors(data)
            return {name: tensors[name].float() for name in names}
        except (SafetensorError, KeyError) as error:
            raise BadSampleError(f"unreadable {suffix}", place, str(error)) from error

    def _features(self, shard: int, row: int) -> Tensor:
        return self._tensors(shard, row, FEATURES, ("tokens",))["tokens"]

    def _regions(self, shard: int, row: int) -> Regions:
        read = self._tensors(shard, row, REGIONS, ("features", "boxes", "class_probs"))
        return Regions(**read, mask=torch.ones(len(read["boxes"]), dtype=torch.bool))
