"""Samples to a batch, padded to the longest caption (and the most regions) that it holds."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlp.data.canvas import in_one_piece
from vlp.types import Batch, Boxes, Graph, Regions, Sample, Tags


def collate(
    samples: list[Sample], pad_id: int, normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
) -> Batch:
    """B samples to a Batch. Pictures, features and regions are there when every sample has them; samples that share
    the tensors of one picture (the dataset gives them so to neighbours) share its row. `normalisation` is the mean and
    std that pictures in uint8 are waiting for."""
    textual = all(part is None for s in samples for part in (s.image, s.features, s.regions))
    shared: dict[tuple[int, int, int], int] = {}
    rows: list[int] = []
    pictures: list[Sample] = []
    for sample in samples:
        rows.append(shared.setdefault((id(sample.image), id(sample.features), id(sample.regions)), len(shared)))
        if rows[-1] == len(pictures):
            pictures.append(sample)
    boxes = _boxes(pictures)
    ids = _padded([s.text_ids for s in samples], pad_id)
    lengths = torch.tensor([len(s.text_ids) for s in samples])
    return Batch(
        text_ids=ids,
        text_mask=torch.arange(ids.shape[1])[None] < lengths[:, None],
        word_ids=_padded([s.word_ids for s in samples], -1),
        image_id=torch.tensor([s.image_id for s in samples]),
        caption_id=torch.tensor([s.caption_id for s in samples]),
        image=_pictures([s.image for s in pictures]) if boxes is None else _parts(pictures),
        features=_stack([s.features for s in pictures]),
        regions=_regions([s.regions for s in pictures]),
        tags=_tags([s.tag_ids for s in pictures], pad_id),
        graph=_graph([s.graph for s in samples]),
        image_row=torch.tensor(rows) if len(shared) < len(samples) and not textual else None,
        boxes=boxes,
        keys=[s.key for s in samples],
        normalisation=normalisation,
    )


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(table)


def _pictures(pictures: list[Tensor | None]) -> Tensor | None:
    """(P, 3, height, width), pixel by pixel in memory as decoders give them: `Batch.to` makes planes on the device."""
    present = [p for p in pictures if p is not None]
    if len(present) != len(pictures):
        return None
    whole = in_one_piece(present)
    if whole is not None:
        return whole
    batch = torch.empty((len(present), *present[0].shape), dtype=present[0].dtype, memory_format=torch.channels_last)
    return torch.stack(present, out=batch)


def _boxes(samples: list[Sample]) -> Boxes | None:
    boxes = [s.box for s in samples if s.box is not None]
    if len(boxes) != len(samples):
        return None
    return Boxes(
        height=torch.tensor([s.image.shape[1] for s in samples if s.image is not None]),
        width=torch.tensor([s.image.shape[2] for s in samples if s.image is not None]),
        operations=torch.tensor([[n for n, _ in box.operations] for box in boxes], dtype=torch.int64),
        strengths=torch.tensor([[strength for _, strength in box.operations] for box in boxes], dtype=torch.float64),
        mirrored=torch.tensor([box.mirrored for box in boxes]),
        size=boxes[0].size,
    )


def _parts(samples: list[Sample]) -> Tensor:
    """(P, 3, tallest, widest): cut-out parts in the upper left corners."""
    parts = [s.image for s in samples if s.image is not None]
    tallest, widest = (max(p.shape[side] for p in parts) for side in (1, 2))
    batch = torch.zeros(len(parts), tallest, widest, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for row, part in zip(batch, parts, strict=True):
        row[:, : part.shape[1], : part.shape[2]] = part
    return batch


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    return torch.stack(present) if len(present) == len(tensors) else None


def _regions(regions: list[Regions | None]) -> Regions | None:
    present = [r for r in regions if r is not None]
    if len(present) != len(regions):
        return None
    fields = ("features", "boxes", "class_probs", "mask")
    return Regions(**{f: pad_sequence([getattr(r, f) for r in present], batch_first=True) for f in fields})


def _tags(tags: list[list[int] | None], pad_id: int) -> Tags | None:
    present = [torch.tensor(t, dtype=torch.long) for t in tags if t is not None]
    if len(present) != len(tags):
        return None
    ids = pad_sequence(present, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(t) for t in present])
    return Tags(ids, torch.arange(ids.shape[1])[None] < lengths[:, None])


def _graph(graphs: list[list[tuple[int, int, int, int]] | None]) -> Graph | None:
    present = [torch.tensor(g) for g in graphs if g is not None]
    if len(present) != len(graphs):
        return None
    table = pad_sequence(present, batch_first=True, padding_value=-1)  # (B, L, 4)
    kind, node, phrase, region = table.unbind(-1)
    return Graph(kind.clamp(min=0), node, phrase, region)
