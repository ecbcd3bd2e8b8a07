"""A retrieval gallery: every picture once, every caption once, and which belong together."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.dataset import FEATURES, PairDataset
from vlp.data.errors import BadSampleError, DataError
from vlp.data.preflight import preflight
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.types import Batch, Sample


class EvaluationSet:
    """The pictures and captions of a shard folder, in the folder's order. Nothing is drawn at random.

    `text_image` (num_texts,) gives the picture of each caption, 0 .. num_images - 1; any number of captions a picture.
    With `config.use_features` cached tokens are read where the folder has them, else its pictures: a model with a
    frozen prefix takes both. Captions longer than `config.max_length` pieces are cut and counted (`num_truncated`).
    Raises DataError for a picture or caption that cannot be read: a figure over less than the whole set would mislead.
    """

    def __init__(self, config: DataConfig, folder: Path | str, tokenizer: Tokenizer, limit: int | None = None) -> None:
        cached = config.use_features and ShardFolder(folder).has(0, 0, FEATURES)
        settings = replace(config, max_bad_share=0.0, use_features=cached)
        self.dataset = PairDataset(settings, folder, tokenizer, train=False)
        preflight(self.dataset)
        self.folder = Path(folder)
        if limit is not None and limit < 1:
            raise DataError(f"a limit of {limit} pictures leaves an empty gallery; give 1 or more, or none for all")
        self.num_images = min(self.dataset.num_pictures, limit or self.dataset.num_pictures)
        self.captions: list[str] = []
        self.keys: list[str] = []
        self.image_ids: list[int] = []
        self.caption_ids: list[int] = []
        self.filenames: list[str] = []
        owners: list[int] = []
        for image in range(self.num_images):
            place = self.dataset.shards.locate(image)
            record = self.dataset.record(*place)
            self.keys.append(self.dataset.shards.key(*place))
            self.image_ids.append(record["image_id"])
            self.filenames.append(str(record.get("filename", "")))
            self.captions += [caption["text"] for caption in record["captions"]]
            self.caption_ids += [caption["id"] for caption in record["captions"]]
            owners += [image] * len(record["captions"])
        self.num_texts = len(self.captions)
        self.text_image = torch.tensor(owners)
        whole = [tokenizer(text, config.max_length + 1) for text in self.captions]
        self.num_truncated = sum(len(ids) > config.max_length for ids, _ in whole)  # captions that lose words
        self._tokens = [tokenizer(text, config.max_length) for text in self.captions] if self.num_truncated else whole
        self.text_order = sorted(range(self.num_texts), key=lambda i: len(self._tokens[i][0]))  # least padding

    def image_batch(self, block: int, batch_size: int) -> Batch:
        """Batch `block` of the pictures in order, `image_id` their numbers; the text side is one [CLS] a row."""
        start = block * batch_size
        return self._collate([self._image(i) for i in range(start, min(start + batch_size, self.num_images))])

    def text_batch(self, block: int, batch_size: int) -> Batch:
        """Batch `block` of the captions in `text_order`, `caption_id` their numbers, `image_id` their pictures'."""
        return self._collate([self._text(i) for i in self.text_order[block * batch_size : (block + 1) * batch_size]])

    def image_batches(self, batch_size: int) -> Iterator[Batch]:
        """All pictures, batch by batch."""
        return (self.image_batch(block, batch_size) for block in range(-(-self.num_images // batch_size)))

    def text_batches(self, batch_size: int) -> Iterator[Batch]:
        """All captions, batch by batch."""
        return (self.text_batch(block, batch_size) for block in range(-(-self.num_texts // batch_size)))

    def pieces(self, number: int) -> list[int]:
        """The ids of a caption, as its batch holds them."""
        return self._tokens[number][0]

    def picture(self, image: int) -> torch.Tensor:
        """The picture as it lies in the shard, (3, height, width) uint8."""
        return self.dataset.picture(*self.dataset.shards.locate(image))

    def _collate(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.dataset.tokenizer.pad_id, self.dataset.config.normalisation)

    def _image(self, image: int) -> Sample:
        try:
            sample = self.dataset.sample_of(0, image, 0)
        except BadSampleError as error:
            raise DataError(f"{error}; an evaluation needs every picture of its set") from error
        cls = self.dataset.tokenizer.cls_id
        return replace(sample, image_id=image, caption_id=-1, text_ids=[cls], word_ids=[-1], graph=None)

    def _text(self, number: int) -> Sample:
        ids, words = self._tokens[number]
        image = int(self.text_image[number])
        return Sample(self.keys[image], image, number, ids, words)
