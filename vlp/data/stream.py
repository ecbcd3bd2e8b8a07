"""Remote shards without an index, read one after another through a cache. What resuming promises: docs/data.md."""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from vlp.data.config import DataConfig
from vlp.data.draws import draws_at
from vlp.data.errors import BadSampleError, DataError
from vlp.data.fetch import ShardCache
from vlp.data.images import Picture, augment, cut_out, resize, swap_sides
from vlp.data.order import permutation
from vlp.data.record import MEMBER_BYTES, TEXT_BYTES, parse_record
from vlp.data.scan import Scan, scan
from vlp.data.shards import PICTURES
from vlp.data.tokenizer import Tokenizer
from vlp.types import Sample

NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(url: str) -> list[str]:
    """`a-{008..010}.tar` to a-008.tar, a-009.tar, a-010.tar."""
    found = NUMBERS.search(url)
    if found is None:
        return [url]
    first, last = found.groups()
    names = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [rest for name in names for rest in expand(url[: found.start()] + name + url[found.end() :])]


class SampleStream:
    """Samples of one of `streams` readers: its share of each epoch's order of shards, in random order within each."""

    def __init__(self, config: DataConfig, urls: list[str], cache: ShardCache, tokenizer: Tokenizer, seed: int) -> None:
        self.config = config
        self.urls = urls
        self.cache = cache
        self.tokenizer = tokenizer
        self.seed = seed

    def read(self, stream: int, streams: int, skip: int) -> Iterator[Sample | BadSampleError]:
        """Endless, from sample `skip` of the stream on; shards whose sizes are known are passed over unfetched."""
        with ThreadPoolExecutor(1) as fetching:
            places, opened = self._places(stream, streams), None
            place = next(places)
            while True:
                following, count = next(places), self.cache.count(self.urls[place[1]])
                if count is not None and count <= skip:
                    place, skip, opened = following, skip - count, None
                    continue
                current = opened or fetching.submit(self.cache.open, self.urls[place[1]])
                opened = fetching.submit(self.cache.open, self.urls[following[1]])
                for number, sample in enumerate(self._shard(*place, current)):
                    if number >= skip:
                        yield sample if isinstance(sample, BadSampleError) else self._guarded(*sample)
                skip = max(0, skip - (self.cache.count(self.urls[place[1]]) or 0))
                place = following

    def _places(self, stream: int, streams: int) -> Iterator[tuple[int, int]]:
        """(epoch, shard) of a stream, endless."""
        number = stream
        while True:
            epoch, place = divmod(number, len(self.urls))
            yield epoch, int(permutation(len(self.urls), self.seed, epoch)[place])
            number += streams

    def _shard(self, epoch: int, shard: int, opened: "Future[BinaryIO]") -> Iterator[Any]:
        """What `_sample` takes, for each sample of a shard; or what is wrong with the shard."""
        url = self.urls[shard]
        try:
            file = opened.result()
        except DataError as error:
            yield BadSampleError("shard unreachable", url, str(error))
            return
        with file:
            found: Scan = scan(file)
            keys = list(found.samples)
            order = draws_at(self.seed, epoch, shard).permutation(len(keys)).tolist()
            bad = [BadSampleError(cause, f"{url}: {key}") for cause, key in found.bad]
            self.cache.remember(url, len(keys) + len(bad))
            yield from bad
            for row in order:
                yield file, url, keys[row], found.samples[keys[row]], (self.seed, epoch, shard, row)

    def _guarded(self, *sample: Any) -> Sample | BadSampleError:
        try:
            return self._sample(*sample)
        except BadSampleError as error:
            return error.with_traceback(None)

    def _sample(
        self, file: BinaryIO, url: str, key: str, members: dict[str, tuple[int, int]], seeds: tuple[int, ...]
    ) -> Sample:
        place = f"{url}: {key}"
        record = self._record(file, url, key, members)
        random = draws_at(*seeds)
        caption = record["captions"][int(random.integers(len(record["captions"])))]
        kind = next((kind for kind in PICTURES if kind in members), None)
        if kind is None:
            raise BadSampleError("no picture", place)
        try:
            picture = Picture(_bytes(file, members[kind], MEMBER_BYTES, place))
            config = self.config
            cropped = config.flip or config.randaugment[0] > 0 or tuple(config.crop_scale) != (1.0, 1.0)
            box = None
            if not cropped:
                image, mirrored = resize(picture.decode(), config.image_size), False
            elif config.augment_on_device:
                image, box = cut_out(picture, config, random)
                mirrored = box.mirrored
            else:
                image, mirrored = augment(picture, config, random)
        except ValueError as error:
            if isinstance(error, BadSampleError):
                raise
            raise BadSampleError("undecodable picture", place, str(error)) from error
        ids, words = self.tokenizer(swap_sides(caption["text"]) if mirrored else caption["text"], config.max_length)
        return Sample(key, record["image_id"], caption["id"], ids, words, image=image, box=box)

    def _record(self, file: BinaryIO, url: str, key: str, members: dict[str, tuple[int, int]]) -> dict[str, Any]:
        """Our own json; or a text beside the picture, as img2dataset writes it, with ids made of its place."""
        place = f"{url}: {key}"
        if "txt" not in members:
            data = _bytes(file, members["json"], TEXT_BYTES, place) if "json" in members else None
            return parse_record(data, lambda: place)
        try:
            text = _bytes(file, members["txt"], TEXT_BYTES, place).decode()
        except UnicodeDecodeError as error:
            raise BadSampleError("wrong encoding", place, str(error)) from error
        number = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8]) >> 1
        made = {"image_id": number, "captions": [{"id": number, "text": text.strip()}]}
        return parse_record(json.dumps(made).encode(), lambda: place)


def _bytes(file: BinaryIO, member: tuple[int, int], limit: int, place: str) -> bytes:
    offset, size = member
    if size > limit:
        raise BadSampleError("member too large", place, f"{size} bytes, at most {limit}")
    file.seek(offset)
    return file.read(size)
