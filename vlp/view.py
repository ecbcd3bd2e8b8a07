"""One batch seen by one model: every stream made once, at first use, and shared by all objectives."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from vlp.layers.gather import gather
from vlp.model import VLModel
from vlp.types import Batch, Fused, Stream


@dataclass
class Rows:
    """Pairs to match: R rows of (text, image) indices into the batch."""

    text: Tensor  # (R,) int64
    image: Tensor  # (R,) int64
    label: Tensor  # (R,) int64, 1 = match
    weight: Tensor  # (R,) float; 0 where a batch offers no negative for a row


class Negatives(Protocol):
    """What an ITM objective draws its rows with."""

    def rows(self, view: "View") -> Rows:
        """Positive and negative pairs of the view's batch."""


@dataclass
class Contrast:
    """Embeddings of the local batch and the candidates that they are compared with."""

    image: Tensor  # (B, E)
    text: Tensor  # (B, E)
    image_candidates: Tensor  # (W B + Q, E)
    text_candidates: Tensor  # (W B + Q, E)
    candidate_ids: Tensor  # (W B + Q,) image ids
    scale: Tensor


Made = TypeVar("Made")


def shared(make: Callable[[Any], Made]) -> cached_property[Made]:
    """A cached property that is made with a gradient where the view is seen with one: an objective that first asks for
    it where it needs none must not leave one without to the others."""

    def made(view: "View") -> Made:
        with torch.set_grad_enabled(view.with_gradient):
            return make(view)

    return cached_property(made)


class View:
    """A model looking at a batch. `teacher` is a View of the momentum model, or None.

    Where objectives ask a vision part for its first stage (`hidden_features`), that is made once and goes with the
    view's batch as `features`; of a part that parses (`SwinParser`), `attention` (P, N, N) comes from the same pass.
    """

    def __init__(self, model: VLModel, batch: Batch, *, momentum: Any | None = None, whole_rows: bool = False) -> None:
        self.model = model
        self.raw = batch
        self.with_gradient = torch.is_grad_enabled()
        self.batch, self.attention = _first_stage(model, batch)
        self.momentum = momentum
        self.whole_rows = whole_rows
        self._matched: dict[Negatives, tuple[Rows, Stream, Fused | None, Tensor]] = {}

    @cached_property
    def teacher(self) -> "View | None":
        """The same batch seen by the momentum model."""
        return None if self.momentum is None else View(self.momentum.model, self.raw)

    @shared
    def seen(self) -> Stream:
        """What the vision part alone makes of the pictures, (P, N, D); the image stream where there are no tags."""
        return self.model.see(self.batch)

    @shared
    def image(self) -> Stream:
        """The image stream, (P, N, D): each picture once, however many pairs it is in (`Batch.image_row`)."""
        return self.model.with_tags(self.seen, self.batch.tags)

    def hiding(self, hidden: Tensor) -> Stream:
        """The image stream with the tokens `hidden` (P, N) bool of the vision part hidden; tags stay."""
        vision: Any = self.model.vision
        return self.model.with_tags(vision.hide(self.seen, hidden), self.batch.tags)

    @shared
    def text(self) -> Stream:
        """The text stream of the unmasked captions, (B, L, D): made, or as a frozen encoder once made it."""
        if self.batch.text_features is not None:
            return Stream(self.batch.text_features, self.batch.text_mask, self.batch.text_ids)
        return self.model.encode_text(self.batch.text_ids, self.batch.text_mask)

    @shared
    def prepared(self) -> Any:
        """The fusion's per-image work, shared by positive, negative and masked passes."""
        return self.model.prepare_image(self.image)

    @shared
    def prepared_nothing(self) -> Any:
        """As many pictures without a single token: what a caption by itself is read with (`OneStream`)."""
        return self.model.prepare_image(Stream(self.image.tokens[:, :0], self.image.mask[:, :0]))

    @shared
    def text_nothing(self) -> Stream:
        """As many captions of nothing but [CLS]: what a picture by itself is read with."""
        return Stream(self.text.tokens[:, :1], self.text.mask[:, :1])

    @shared
    def text_apart(self) -> Stream:
        """(B, L, D) what a one-stream fusion makes of each caption by itself."""
        return self.model.fuse(self.text, self.prepared_nothing).text

    @shared
    def image_apart(self) -> Stream:
        """(P, N, D) what a one-stream fusion makes of each image token by itself (`OneStream.apart`)."""
        if not hasattr(self.model.fusion, "apart"):
            raise ValueError("image tokens by themselves are read by a one-stream fusion only (OneStream)")
        return cast(Stream, self.model.fusion.apart(self.prepared))  # type: ignore[union-attr, operator]

    @shared
    def image_embedding(self) -> Tensor:
        """(B, E) unit rows."""
        embedding, rows = self.model.contrast.embed_image(self.image), self.batch.image_row
        return embedding if rows is None else embedding.index_select(0, rows)

    @shared
    def text_embedding(self) -> Tensor:
        """(B, E) unit rows."""
        return self.model.contrast.embed_text(self.text)

    @shared
    def contrast(self) -> Contrast:
        """Local embeddings against all ranks' candidates: the teacher's and its queue, else the student's own."""
        ids = gather(self.batch.image_id)
        scale = self.model.contrast.scale()
        if self.momentum is None or self.teacher is None:
            image, text = gather(self.image_embedding), gather(self.text_embedding)
            return Contrast(self.image_embedding, self.text_embedding, image, text, ids, scale)
        with torch.no_grad():
            image, text = gather(self.teacher.image_embedding), gather(self.teacher.text_embedding)
        image, text, ids = self.momentum.with_queue(image, text, ids)
        return Contrast(self.image_embedding, self.text_embedding, image, text, ids, scale)

    def fused_with(self, image: Stream, text: Stream | None = None) -> Fused:
        """Whole rows of each pair with another form of its picture (or of its caption): hidden parts, other tags."""
        text = self.text if text is None else text
        fused = self.model.fuse(text, self.model.prepare_image(image), self.batch.image_row)
        return fused

    def pictures(self, pairs: Tensor) -> Tensor:
        """Numbers of pairs of the batch to the rows of the image stream that hold their pictures."""
        return pairs if self.batch.image_row is None else self.batch.image_row[pairs]

    def matched(self, negatives: Negatives) -> tuple[Rows, Stream, Fused | None, Tensor]:
        """Rows drawn by `negatives` and their fused pass: (rows, texts, fused, summary (R, D)).

        `fused` is None unless an objective of the task reads whole rows: else only each pair's [CLS] is computed.
        Objectives that hold equal `negatives` share one pass.
        """
        if negatives not in self._matched:
            rows = negatives.rows(self)
            texts = self.text.select(rows.text)
            self._matched[negatives] = (rows, texts, *self._fuse(texts, self.pictures(rows.image)))
        return self._matched[negatives]

    def _fuse(self, texts: Stream, image_index: Tensor) -> tuple[Fused | None, Tensor]:
        if self.whole_rows:
            fused = self.model.fuse(texts, self.prepared, image_index)
            return fused, fused.summary
        return None, self.model.summarize(texts, self.prepared, image_index)


def _first_stage(model: VLModel, batch: Batch) -> tuple[Batch, Tensor | None]:
    vision: Any = getattr(model, "vision", None)
    if batch.image is None or batch.features is not None or not hasattr(vision, "hidden_features"):
        return batch, None
    features, attention = vision.parsed(batch) if hasattr(vision, "parsed") else (vision.hidden_features(batch), None)
    return replace(batch, features=features), attention
