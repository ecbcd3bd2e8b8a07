"""The systems' tiny forms on batches of their true input types, with the random draws held fixed."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from vlp.config import load_config
from vlp.systems import names
from vlp.task import Task
from vlp.training import TrainConfig, build_task
from vlp.trial import trial_batch
from vlp.types import Batch

SYSTEMS = names()
SIZE = 8


def tiny(name: str) -> TrainConfig:
    config: TrainConfig = load_config(f"configs.systems.{name}:tiny")
    return config


def make(name: str) -> tuple[Task, Batch]:
    """A task far from its initialisation, and a batch whose halves differ in words, regions and phrases."""
    config = tiny(name)
    task = build_task(config, read_weights=False)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    task.sync_teacher()
    words = int(task.model.text.vocab_size)  # type: ignore[arg-type]
    batch = trial_batch(task, config.data, SIZE, words, 0)
    if batch.graph is not None:
        batch.graph.region[-2:] = -1  # two captions that name no region
    return task, batch


def rows(value: Any, index: Tensor) -> Any:
    """The rows `index` of a batch, or of a part of it."""
    if isinstance(value, Tensor):
        return value[index]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: rows(getattr(value, f.name), index) for f in fields(value)})
    return [] if isinstance(value, list) else value


def with_shared_pictures(batch: Batch) -> tuple[Batch, Batch]:
    """Two captions of each picture: once the picture is repeated, once its pairs share it (`image_row`)."""
    row = torch.arange(len(batch)) // 2
    pictures = {n: getattr(batch, n) for n in ("image", "features", "regions", "tags") if getattr(batch, n) is not None}
    first = {n: rows(value, 2 * row) for n, value in pictures.items()}
    half = {n: rows(value, torch.arange(0, len(batch), 2)) for n, value in pictures.items()}
    return replace(batch, image_id=row, **first), replace(batch, image_id=row, image_row=row, **half)


def padded(batch: Batch, extra: int, filler: int) -> Batch:
    """More padding to the right of the captions, and other content under every mask."""
    pad = torch.full((len(batch), extra), filler)
    minus = torch.full_like(pad, -1)
    ids = torch.cat([torch.where(batch.text_mask, batch.text_ids, filler), pad], 1)
    mask = torch.cat([batch.text_mask, torch.zeros_like(pad, dtype=torch.bool)], 1)
    out = replace(batch, text_ids=ids, text_mask=mask, word_ids=torch.cat([batch.word_ids, minus], 1))
    if batch.graph is not None:
        graph = {f.name: torch.cat([getattr(batch.graph, f.name), minus], 1) for f in fields(batch.graph)}
        graph["kind"] = graph["kind"].clamp(min=0)
        out.graph = replace(batch.graph, **graph)
    if batch.tags is not None:
        out.tags = replace(batch.tags, ids=torch.where(batch.tags.mask, batch.tags.ids, filler))
    if batch.regions is not None:
        here = batch.regions.mask[..., None]
        other = {n: torch.where(here, getattr(batch.regions, n), 0.3) for n in ("features", "boxes", "class_probs")}
        out.regions = replace(batch.regions, **other)
    return out


def _alike(*shape: int, device: torch.device) -> Tensor:
    """Draws that hang on the place in a row alone: equal for every row, and for any padding behind."""
    place = torch.zeros(shape[1:])
    for i, size in enumerate(shape[1:]):
        place = place + (1.7 + i) * torch.arange(size).view([-1] + [1] * (len(shape) - 2 - i))
    draw = (torch.sin(place * 12.9898 + 1.3 + len(shape)) * 43758.5453).remainder(1.0)
    return draw.expand(shape).clone()


def _partner(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The negative of picture 2 k is picture 2 k + 1, and the other way round."""
    found = (ids[:, None] ^ 1) == ids[None]
    return found.float().argmax(1), found.any(1)


@contextmanager
def fixed_draws() -> Iterator[None]:
    """Every draw of an objective is a function of content or of the place in a row."""
    with patch("vlp.layers.draws.uniform", _alike), patch("vlp.objectives.negatives.sample_negatives", _partner):
        yield


def closeness(one: Tensor, two: Tensor) -> float:
    """Relative distance of two tensors; 0 for two that are (nearly) nothing."""
    size = max(float(one.norm()), float(two.norm()))
    return float((one - two).norm()) / size if size > 1e-7 and math.isfinite(size) else float((one - two).norm())


Measured = Callable[[str, Tensor | None], dict[str, Tensor]]  # name, rows of the batch -> loss and gradients


def _rank(rank: int, names: Sequence[str], measured: Measured, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name in names:
        found = measured(name, torch.arange(4) + 4 * rank)
        for tensor in found.values():  # what DDP does
            dist.all_reduce(tensor)
            tensor /= 2
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pt")
    dist.destroy_process_group()


def assert_two_ranks_are_one(names: Sequence[str], measured: Measured, folder: Path) -> None:
    """Two processes with four rows of the batch each find what one finds with all eight."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    mp.spawn(_rank, args=(names, measured, str(folder)), nprocs=2)
    problems = {}
    for name in names:
        joined = torch.load(folder / f"{name}.pt", weights_only=True)
        whole = measured(name, None)
        assert joined.keys() == whole.keys()
        apart = {n: closeness(joined[n], value) for n, value in whole.items()}
        wrong = {n: d for n, d in apart.items() if d > 1e-4}
        if wrong:
            problems[name] = dict(sorted(wrong.items(), key=lambda item: -item[1])[:3])
    assert not problems, "\n".join(f"{name}: {found}" for name, found in problems.items())
