"""What flows through vlp, and the one legend of shape letters that every docstring uses.

B pairs in a batch    P pictures of a batch (B, or fewer where pairs share them)
C captions            R rows of a fused pass (positives and negatives)
N image tokens        L text tokens        T tokens left when padding is taken out
D width of a stream   E width of an embedding that can be indexed
H heads               V vocabulary         Q length of a feature queue     W ranks
M masked positions

Masks are boolean and True means present, everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Regions:
    """Detector output of a batch: R boxes a picture, padded."""

    features: Tensor  # (B, R, F) float
    boxes: Tensor  # (B, R, 4) float, x1 y1 x2 y2 as shares of width and height
    class_probs: Tensor  # (B, R, K) float, rows sum to 1
    mask: Tensor  # (B, R) bool
    hidden: Tensor | None = None  # (B, R) bool: features that an objective hides from the model


@dataclass
class Tags:
    """Words that a detector says of each picture, as text pieces, padded."""

    ids: Tensor  # (P, T) int64
    mask: Tensor  # (P, T) bool


@dataclass
class Graph:
    """What the pieces of a caption speak of: the scene graph of a caption, written on its pieces."""

    kind: Tensor  # (B, L) int64: 0 none, 1 object, 2 attribute, 3 relation
    node: Tensor  # (B, L) int64: number of the graph's node, equal for the pieces of one word or term; -1 none
    phrase: Tensor  # (B, L) int64: number of the noun phrase, attributes and object together; -1 none
    region: Tensor  # (B, L) int64: row of the one region that the phrase names; -1 none, unknown or several


@dataclass
class Boxes:
    """What is still to be done with cut-out parts of pictures, each in the upper left corner of its row of `image`."""

    height: Tensor  # (P,) int64, pixels of the part
    width: Tensor  # (P,) int64
    operations: Tensor  # (P, K) int64: which of RandAugment's, one after another
    strengths: Tensor  # (P, K) float64
    mirrored: Tensor  # (P,) bool
    size: int  # pixels a side to resize to


KINDS = ("none", "object", "attribute", "relation")


@dataclass
class Batch:
    """Raw facts of B image-text pairs. Targets are made by the objective that wants them, on the device."""

    text_ids: Tensor  # (B, L) int64, [CLS] first, padded
    text_mask: Tensor  # (B, L) bool
    word_ids: Tensor  # (B, L) int64: which word a piece belongs to; -1 at special tokens and padding
    image_id: Tensor  # (B,) int64: pairs with one id are positives of each other
    caption_id: Tensor  # (B,) int64
    # (P, 3, height, width) float, normalised; P = B unless pairs share pictures. From the loader uint8, which is a
    # quarter of the memory to hand from process to process and to the device; `to` normalises it there.
    image: Tensor | None = None
    features: Tensor | None = None  # (P, N, D) output of the vision part's first stage, used instead of `image`
    text_features: Tensor | None = None  # (B, L, D) stored output of a frozen text encoder, used instead of it
    regions: Regions | None = None
    tags: Tags | None = None
    graph: Graph | None = None
    boxes: Boxes | None = None  # where `image` waits for data/on_device.py: (P, 3, tallest, widest) uint8
    image_row: Tensor | None = None  # (B,) int64: the row of image, features and regions that each pair has; None = own
    keys: list[str] = field(default_factory=list)  # shard key of each sample, for reports
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and std for uint8 pictures

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        """The same batch with every tensor on `device`, and pictures normalised."""
        moved: Batch = each(self, Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if moved.image is not None and moved.image.dtype == torch.uint8:
            assert moved.normalisation is not None
            moved.image = normalised(moved.image, *moved.normalisation)
        return moved

    def __len__(self) -> int:
        return int(self.text_ids.shape[0])


@dataclass
class Stream:
    """Tokens of one modality. Content under a False mask never changes an output."""

    tokens: Tensor  # (B, N, D)
    mask: Tensor  # (B, N) bool
    ids: Tensor | None = None  # (B, N) int64: of captions, which words the tokens are, for what tells them
    words: "Stream | None" = None  # (B, T, D') of the same pictures, for heads that read words beside a picture

    def select(self, rows: Tensor) -> "Stream":
        """The rows (R,), in that order; one row may come several times."""
        ids = None if self.ids is None else self.ids.index_select(0, rows)
        words = None if self.words is None else self.words.select(rows)
        return Stream(self.tokens.index_select(0, rows), self.mask.index_select(0, rows), ids, words)


@dataclass
class Fused:
    """What a fusion gives back for R image-text rows."""

    image: Stream | None  # (R, N, D); None where the image side is only read from
    text: Stream  # (R, L, D)
    summary: Tensor  # (R, D), the [CLS] of the pair


@dataclass
class Loss:
    """A scalar to minimise and named scalars to report (detached, on the device)."""

    value: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """What is still to be done with a cut-out part of a picture."""

    operations: tuple[tuple[int, float], ...]  # number and strength of each of RandAugment's
    mirrored: bool
    size: int


@dataclass
class Sample:
    """One decoded image-text pair, before collation."""

    key: str
    image_id: int
    caption_id: int
    text_ids: list[int]
    word_ids: list[int]
    image: Tensor | None = None  # (3, height, width) uint8, or float and normalised
    features: Tensor | None = None  # (N, D)
    regions: Regions | None = None  # without the batch dimension
    box: Box | None = None  # where `image` is a cut-out part
    tag_ids: list[int] | None = None
    graph: list[tuple[int, int, int, int]] | None = None  # kind, node, phrase and region of each piece


def normalised(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(..., 3, height, width) uint8 to float, minus mean, over std, both as shares of 255."""
    shift = torch.tensor(mean, device=picture.device).view(3, 1, 1) * 255
    scale = torch.tensor(std, device=picture.device).view(3, 1, 1) * 255
    # Decoded pictures lie pixel by pixel; plane by plane the arithmetic is twice as fast.
    return picture.contiguous().float().sub_(shift).div_(scale)


def each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A dataclass with `change` made to every `kind` in it, at any depth of dataclasses."""
    if isinstance(value, kind):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: each(getattr(value, f.name), kind, change) for f in fields(value)})
    return value
