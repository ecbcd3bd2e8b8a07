"""Bare decode and crop by every decoder that is installed, and WebDataset with Pillow: what loader.py compares with."""

import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlp.data.config import DataConfig
from vlp.data.images import _crop, resize
from vlp.data.tokenizer import Tokenizer

Decode = Callable[[bytes], Tensor]  # to (3, height, width) uint8


def decoders() -> dict[str, Decode]:
    """Full decoding by each library that is here; all but the last give the same pixels."""
    found: dict[str, Decode] = {"Pillow": lambda data: _planes(np.array(Image.open(io.BytesIO(data)).convert("RGB")))}
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = lambda data: _planes(simplejpeg.decode_jpeg(data))
    if importlib.util.find_spec("torchvision"):
        from torchvision.io import ImageReadMode, decode_jpeg

        found["torchvision"] = lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        )
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        flags = cv2.IMREAD_COLOR_RGB
        found["OpenCV"] = lambda data: _planes(cv2.imdecode(np.frombuffer(data, np.uint8), flags))
    return found


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def crop(decode: Decode, data: bytes, config: DataConfig, random: np.random.Generator) -> Tensor:
    """A random resized crop as uint8, bicubic and antialiased: nothing else, no caption, no batch."""
    picture = decode(data)
    top, left, height, width = _crop((picture.shape[1], picture.shape[2]), config.crop_scale, random)
    return resize(picture[:, top : top + height, left : left + width], config.image_size)


class WebDatasetBatches:
    """The loader as one would first write it: WebDataset, Pillow, torchvision's transforms, the same tokenizer."""

    def __init__(self, folder: Path, config: DataConfig, tokenizer: Tokenizer) -> None:
        import torchvision.transforms.v2 as T  # here, so that what start-up costs is not counted with it

        self.tokenizer = tokenizer
        self.config = config
        self.transform = T.Compose(
            [
                T.RandomResizedCrop(config.image_size, config.crop_scale, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(),
                T.ToImage(),
                T.ToDtype(torch.float32, scale=True),
                T.Normalize(config.mean, config.std),
            ]
        )
        self.urls = sorted(str(path) for path in folder.glob("*.tar"))

    def batches(self) -> Iterator[Any]:
        """Endless (pictures, ids, mask)."""
        import webdataset

        dataset = webdataset.WebDataset(self.urls, shardshuffle=len(self.urls), seed=0).repeat().shuffle(1000)
        yield from dataset.map(self._sample).batched(self.config.batch_size, collation_fn=self._collate)

    def _sample(self, sample: dict[str, bytes]) -> tuple[Tensor, list[int]]:
        picture = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        text = json.loads(sample["json"])["captions"][0]["text"]
        return self.transform(picture), self.tokenizer(text, self.config.max_length)[0]

    def _collate(self, samples: list[tuple[Tensor, list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
        ids = pad_sequence([torch.tensor(s[1]) for s in samples], batch_first=True)
        return torch.stack([s[0] for s in samples]), ids, ids != 0
