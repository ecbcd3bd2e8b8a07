"""The micro batches of a step, plain or with gradient caching."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator

from vlp.engine.meter import Meter
from vlp.engine.precision import DTYPES
from vlp.engine.run import RunConfig
from vlp.engine.seeds import seed_micro_step
from vlp.types import Batch


def micro_steps(
    inner: Any, batches: Iterator[Batch], accelerator: Accelerator, run: RunConfig, step: int, meter: Meter
) -> Iterator[tuple[Batch, tuple[Any, ...]]]:
    """Each micro batch of a step on the device, and what the task's forward takes beside it.

    With `run.gradient_cache` all of them are read and embedded first, from the seeds that their forward passes get, and
    wait on the host; unless the step draws no objective that a cache helps.
    """
    if not (run.gradient_cache and inner.cacheable()):
        for _ in range(run.accumulate):
            with meter.timed("data"):
                batch = next(batches).to(accelerator.device)
            yield batch, ()
        return
    with meter.timed("data"):
        waiting = list(islice(batches, run.accumulate))
    with meter.timed("forward"):
        caches = _caches(inner, waiting, accelerator, run, step)
    for batch, cache in zip(waiting, caches, strict=True):
        yield batch.to(accelerator.device), (cache,)


@torch.no_grad()
def _caches(inner: Any, waiting: list[Batch], accelerator: Accelerator, run: RunConfig, step: int) -> list[Any]:
    parts = []
    dtype = DTYPES.get(run.precision)
    rank_of = accelerator.process_index, accelerator.num_processes
    # The task behind the launcher's wrapper: nothing here needs gradients exchanged, but the same number format.
    with torch.autocast(accelerator.device.type, dtype=dtype, enabled=dtype is not None):
        for micro, batch in enumerate(waiting):
            seed_micro_step(run.seed, step, micro, *rank_of, len(batch))
            parts.append(inner.embed(batch.to(accelerator.device)))
        return list(inner.contrast(parts))
