"""Throughput, MFU, memory, and where each rank spends its time: waiting for data, forward, backward."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

SHARES = ("data", "forward", "backward")
BETWEEN = "optimizer"  # between the phases: clipping, the ranks' verdict, the optimizer, the log


class Meter:
    """Counts samples and seconds between two readings; pauses (evaluation, checkpoints) are left out.

    `taken` is the last step taken; `place`, the number of phases begun and ended and the phase of now, tells a `Watch`
    who is behind. `flops_per_sample` (forward and backward) over `peak_flops` of one rank's device gives the MFU; 0 =
    not known.
    """

    def __init__(self, *, flops_per_sample: float = 0.0, peak_flops: float = 0.0, taken: int = 0) -> None:
        self.flops_per_sample = flops_per_sample
        self.peak_flops = peak_flops
        self.taken = taken
        self.place = (0, BETWEEN)
        self._reset()

    def _reset(self) -> None:
        self.started = time.perf_counter()
        self.samples = 0
        self.steps = 0
        self.seconds = dict.fromkeys((*SHARES, "paused"), 0.0)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Time spent here goes to "data", "forward", "backward" or "paused". Host time: nothing waits for a GPU."""
        start = time.perf_counter()
        self.place = (self.place[0] + 1, what)
        yield
        self.place = (self.place[0] + 1, BETWEEN)
        self.seconds[what] += time.perf_counter() - start

    def count(self, samples: int) -> None:
        """Add this process's samples of a micro step."""
        self.samples += samples

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        self.taken += 1

    def read(self, accelerator: Accelerator) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Since the last reading: rates over all ranks, and each rank's milliseconds a step and memory in GB.

        Collective: one gather of six numbers a rank. A rank that is late has long data and forward times; the others
        wait for it in their backward, where gradients are exchanged.
        """
        elapsed = max(time.perf_counter() - self.started - self.seconds["paused"], 1e-9)
        shares = [self.seconds[name] for name in SHARES]
        own = torch.tensor([elapsed, self.samples, *shares, memory(accelerator.device)], device=accelerator.device)
        table = accelerator.gather(own[None]).tolist()
        steps = max(self.steps, 1)
        rows = [
            {f"{name}_ms": round(1000 * seconds / steps, 3) for name, seconds in zip(SHARES, row[2:5], strict=True)}
            | {"memory_gb": round(row[5] / 1e9, 4)}
            for row in table
        ]
        self._reset()
        return self._rates(table, rows, steps), rows

    def _rates(self, table: list[list[float]], rows: list[dict[str, float]], steps: int) -> dict[str, float]:
        seconds = max(row[0] for row in table)
        throughput = sum(row[1] for row in table) / seconds
        own = [row["data_ms"] + row["forward_ms"] for row in rows]
        rates = {
            "samples_per_second": throughput,
            "step_ms": 1000 * seconds / steps,
            "data_wait": sum(row[2] for row in table) / len(table) / seconds,
            "memory_gb": max(row["memory_gb"] for row in rows),
        }
        if len(rows) > 1:
            rates |= {"slowest_rank": own.index(max(own)), "slowest_rank_ms": max(own)}
        if self.flops_per_sample and self.peak_flops:
            rates["mfu"] = throughput * self.flops_per_sample / (self.peak_flops * len(table))
        return rates


def memory(device: torch.device) -> float:
    """Peak bytes so far: of the GPU's allocations, or on a CPU of the whole process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
