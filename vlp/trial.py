"""`--dry-run` of a task: parameters of each part, and one forward and backward on a mock batch."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vlp.data.config import DataConfig
from vlp.data.mock import mock_batch
from vlp.engine.dryrun import count_parameters, parameter_table, trial_text, try_step
from vlp.engine.run import RunConfig
from vlp.engine.seeds import seed_micro_step
from vlp.task import Task
from vlp.types import Batch

CPU_BATCH = 8  # a CPU need not wade through a GPU's batch; a GPU tries the true size, which shows a lack of memory
MOCK_REGIONS = 36  # regions of a picture in a trial: what bottom-up attention gives
MOCK_TAGS = 8


def try_task(
    wrapped: Any, task: Task, data: DataConfig, run: RunConfig, vocab_size: int, accelerator: Accelerator
) -> dict[str, float]:
    """Print the parameter table and the first step; returns its report, FLOPs per sample and counts."""
    counts = count_parameters(parts_of(task))
    accelerator.print(parameter_table(counts))
    size = max(data.batch_size // (accelerator.num_processes * run.accumulate), 1)
    size = min(size, CPU_BATCH) if accelerator.device.type == "cpu" else size
    batch = trial_batch(task, data, size, vocab_size, run.seed).to(accelerator.device)
    seed_micro_step(run.seed, 1, 0, accelerator.process_index, accelerator.num_processes, size)
    trial = try_step(wrapped, task, batch, accelerator)
    accelerator.print(trial_text(trial, size))
    return trial.report | {
        "flops_per_sample": trial.flops_per_sample,
        "trainable": sum(c.trainable for c in counts),
        "frozen": sum(c.frozen for c in counts),
        "without_gradient": len(trial.without_gradient),
    }


def parts_of(task: Task) -> dict[str, nn.Module]:
    """The parts of a task by the prefix of their parameters' names."""
    parts: dict[str, nn.Module | None] = {f"model.{name}": part for name, part in task.model.named_children()}
    parts |= {f"objectives.{name}": objective for name, objective in task.objectives.items()}
    parts["teacher"] = task.teacher
    return {name: part for name, part in parts.items() if part is not None}


def trial_batch(task: Task, data: DataConfig, size: int, vocab_size: int, seed: int) -> Batch:
    """A mock batch as the task's data would be: pictures, or the cached features that its vision part makes of them."""
    vision: Any = task.model.vision
    batch = mock_batch(
        size,
        data.image_size,
        data.max_length,
        vocab_size,
        seed,
        regions=_region_shape(task) if data.use_regions else None,
        pictures=data.use_pictures,
        tags=MOCK_TAGS if data.use_tags else 0,
        graph=data.use_graph,
    )
    if not data.use_features:
        return batch
    assert batch.image is not None
    with torch.no_grad():
        features = vision.prefix(batch.image.to(next(vision.parameters()).device))
    return replace(batch, features=features, image=None)


def _region_shape(task: Task) -> tuple[int, int, int]:
    """Regions, feature width and classes as the first parts that name them take them."""
    parts: list[Any] = [task.model.vision, *task.objectives.values()]
    width = next((p.feature_width for p in parts if hasattr(p, "feature_width")), 8)
    return MOCK_REGIONS, width, next((p.classes for p in parts if hasattr(p, "classes")), 1)
