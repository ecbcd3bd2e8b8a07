"""Exported models read back: pictures and sentences in, embeddings and scores out, as evaluation computes them.

An export is a folder that depends on nothing else on disk: `config.json` (the model's recorded calls),
`model.safetensors`, `tokenizer.json` and `preprocessing.json`. `vlp export` writes it, `vlp.load` reads it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vlp.config import build, from_json
from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.images import decode, resize
from vlp.data.tokenizer import Tokenizer
from vlp.engine.tensors import check_fit, read_tensors, with_one_dimension
from vlp.model import VLModel
from vlp.similarity.kinds import kind_of
from vlp.types import Batch, Sample, Stream

FORMAT, VERSION = "vlp-export", 1
MODEL, CONFIG, PREPROCESSING = "model.safetensors", "config.json", "preprocessing.json"
RESIZE = "squeeze, bicubic, antialiased"  # what vlp.data.images.resize does

Picture = str | Path | Image.Image | Tensor


class ExportError(ValueError):
    """A folder that is no export, or one that cannot be used here. Names the file and the remedy."""


def load_exported(folder: Path | str, device: str | None = None) -> "RetrievalModel":
    """Read an export. `device` None takes the GPU where there is one. Raises ExportError."""
    place = Path(folder)
    record, prepared = read_export(place)
    data = DataConfig(
        image_size=prepared["image_size"],
        max_length=prepared["max_length"],
        mean=tuple(prepared["mean"]),
        std=tuple(prepared["std"]),
    )
    model = cast(VLModel, build(from_json(record["model"])))
    state = with_one_dimension(model.state_dict(), read_tensors(place / MODEL))
    check_fit(model.state_dict(), state, place / MODEL, "export the checkpoint again with this version of vlp")
    model.load_state_dict(state)
    return RetrievalModel(
        model=model,
        tokenizer=Tokenizer.from_folder(place),
        data=data,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        mix=record.get("mix", 0.0),
        fingerprint=json.dumps([record["weights_sha256"], prepared], sort_keys=True),
    )


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` and `preprocessing.json` of an export. Raises ExportError."""
    if not (folder / PREPROCESSING).is_file():
        hint = "a checkpoint or a run" if (folder / CONFIG).is_file() else "not one"
        raise ExportError(f"{folder} is no exported model but {hint}; make one with `vlp export CHECKPOINT OUT`")
    record, prepared = (_read_json(folder / name) for name in (CONFIG, PREPROCESSING))
    if record.get("format") != FORMAT or record.get("format_version", 0) > VERSION:
        found = f"{record.get('format')} {record.get('format_version')}"
        raise ExportError(f"{folder / CONFIG} is of format {found}, here {FORMAT} {VERSION} is read; update vlp")
    missing = {"image_size", "mean", "std", "max_length", "resize"} - set(prepared)
    if missing or prepared["resize"] != RESIZE:
        what = f"has no {', '.join(sorted(missing))}" if missing else f"asks for resize {prepared['resize']!r}"
        raise ExportError(f"{folder / PREPROCESSING} {what}; export the checkpoint again with this version of vlp")
    return record, prepared


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(f"{path} cannot be read ({error}); export the checkpoint again") from error


class RetrievalModel:
    """A model ready to encode and score. Pictures are paths, PIL images or (3, height, width) uint8 tensors.

    Results are fp32 tensors on the CPU. `model`, `tokenizer` and `data` are there for everything else.
    """

    def __init__(
        self,
        *,
        model: VLModel,
        tokenizer: Tokenizer,
        data: DataConfig,
        device: torch.device | str = "cpu",
        mix: float = 0.0,
        fingerprint: str = "",
    ) -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.data = data
        self.device = torch.device(device)
        self.mix = mix  # of the first stage's logit in re-ranking (`EvaluationConfig.mix`)
        self.fingerprint = fingerprint  # of weights and preprocessing: equal fingerprints give equal embeddings

    @property
    def embeds(self) -> bool:
        """Whether pictures and texts become vectors that can be compared and indexed ("itc")."""
        return "itc" in self.model.similarities

    @property
    def matcher(self) -> str | None:
        """The similarity that looks at picture and text together: a fused head, else one of tokens with tokens."""
        kinds = {kind_of(part): name for name, part in self.model.similarities.items()}
        return kinds.get("fused", kinds.get("pairwise"))

    @property
    def matches(self) -> bool:
        """Whether there is such a similarity."""
        return self.matcher is not None

    def encode_images(self, images: Picture | Sequence[Picture], batch_size: int = 64) -> Tensor:
        """(B, E) rows of length 1. Raises ValueError for an unreadable picture, or a model without "itc"."""
        contrast = self.model.contrast
        return self._joined(contrast.embed_image(stream) for stream in self._image_streams(_images(images), batch_size))

    def encode_texts(self, texts: str | Sequence[str], batch_size: int = 64) -> Tensor:
        """(C, E) rows of length 1. Raises ValueError for an empty text, or a model without "itc"."""
        contrast = self.model.contrast
        return self._joined(contrast.embed_text(stream) for stream in self._text_streams(_texts(texts), batch_size))

    def score(self, images: Picture | Sequence[Picture], texts: str | Sequence[str]) -> Tensor:
        """(B, C): cosine similarity, and for a model without "itc" the logit of every pair (`match_all`)."""
        if self.embeds:
            return self.encode_images(images) @ self.encode_texts(texts).T
        return self.match_all(images, texts)

    def match(self, images: Picture | Sequence[Picture], texts: str | Sequence[str], batch_size: int = 64) -> Tensor:
        """(R,) logits that picture and text of each pair belong together, or log-likelihoods of the texts, as `matcher`
        gives them. One picture or text serves all."""
        pictures, sentences = _images(images), _texts(texts)
        rows = max(len(pictures), len(sentences))
        if {len(pictures), len(sentences)} - {1, rows}:
            raise ValueError(f"{len(pictures)} pictures and {len(sentences)} texts do not pair; match_all scores all")
        if len(pictures) == 1:
            return self.match_all(pictures, sentences, batch_size)[0]
        if len(sentences) == 1:
            return self.match_all(pictures, sentences, batch_size)[:, 0]
        if not self._fused():
            return torch.cat([self.match_all(*pair)[0] for pair in zip(pictures, sentences, strict=True)])
        blocks = zip(self._prepared(pictures, batch_size), self._text_streams(sentences, batch_size), strict=True)
        return self._joined(
            self.model.match(text, prepared, torch.arange(count, device=self.device), by=str(self.matcher))
            for (prepared, count), text in blocks
        )

    def match_all(
        self, images: Picture | Sequence[Picture], texts: str | Sequence[str], batch_size: int = 64
    ) -> Tensor:
        """(B, C) logits of every pair by `matcher`, each of which is looked at: for shortlists and small sets.

        Raises ValueError for a model that only compares embeddings.
        """
        fused, pictures = self._fused(), _images(images)
        with torch.inference_mode():
            blocks = list(self._text_streams(_texts(texts), batch_size))
        if not fused:
            similarity: Any = self.model.similarities[str(self.matcher)]
            return self._joined(
                torch.cat([similarity.scores(stream, text) for text in blocks], dim=1)
                for stream in self._image_streams(pictures, batch_size)
            )
        return self._joined(
            torch.cat([self._grid(prepared, count, text, batch_size) for text in blocks], dim=1)
            for prepared, count in self._prepared(pictures, batch_size)
        )

    def _fused(self) -> bool:
        """Whether pairs go through the fusion."""
        if self.matcher is None:
            raise ValueError("this model has no similarity that looks at pairs; compare embeddings with score()")
        return kind_of(self.model.similarities[self.matcher]) == "fused"

    def _grid(self, prepared: Any, count: int, text: Stream, batch_size: int) -> Tensor:
        """Log-odds of `count` prepared pictures with all texts of a block, `batch_size` pairs at a time."""
        texts = text.mask.shape[0]
        pairs = torch.arange(count * texts, device=self.device)
        scores = []
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            rows = text.select(part % texts)
            scores.append(self.model.match(rows, prepared, part // texts, by=str(self.matcher)))
        return torch.cat(scores).view(count, texts)

    def _prepared(self, pictures: Sequence[Picture], batch_size: int) -> Iterator[tuple[Any, int]]:
        """The fusion's work on each block of pictures, and how many they are."""
        for stream in self._image_streams(pictures, batch_size):
            yield self.model.prepare_image(stream), stream.mask.shape[0]

    def _image_streams(self, pictures: Sequence[Picture], batch_size: int) -> Iterator[Stream]:
        for start in range(0, len(pictures), batch_size):
            tensors = [resize(read_picture(p), self.data.image_size) for p in pictures[start : start + batch_size]]
            cls = self.tokenizer.cls_id
            yield self.model.encode_image(self._batch([Sample("", -1, -1, [cls], [-1], image=t) for t in tensors]))

    def _text_streams(self, texts: Sequence[str], batch_size: int) -> Iterator[Stream]:
        for start in range(0, len(texts), batch_size):
            tokens = [self.tokenizer(t, self.data.max_length) for t in texts[start : start + batch_size]]
            batch = self._batch([Sample("", -1, -1, ids, words) for ids, words in tokens])
            yield self.model.encode_text(batch.text_ids, batch.text_mask)

    def _batch(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.tokenizer.pad_id, self.data.normalisation).to(self.device)

    @torch.inference_mode()
    def _joined(self, blocks: Iterator[Tensor]) -> Tensor:
        return torch.cat([block.float().cpu() for block in blocks])


def read_picture(picture: Picture) -> Tensor:
    """(3, height, width) uint8 RGB, upright. Raises ValueError naming a file that cannot be read."""
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(
                f"a picture tensor is (3, height, width) uint8, not {tuple(picture.shape)} {picture.dtype}"
            )
        return picture
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(ImageOps.exif_transpose(picture).convert("RGB"))).permute(2, 0, 1)
    try:
        return decode(Path(picture).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{picture} is no readable picture: {error}") from error


def _images(images: Picture | Sequence[Picture]) -> list[Picture]:
    listed = [images] if isinstance(images, (str, Path, Image.Image, Tensor)) else list(images)
    if not listed:
        raise ValueError("no pictures were given")
    return listed


def _texts(texts: str | Sequence[str]) -> list[str]:
    listed = [texts] if isinstance(texts, str) else list(texts)
    if not listed or not all(text.strip() for text in listed):
        raise ValueError("no text was given" if not listed else "one of the texts is empty")
    return listed
