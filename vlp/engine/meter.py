"""Throughput and the share of time that the step waited for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Counts samples and seconds between two readings; pauses (evaluation, checkpoints) are left out."""

    def __init__(self, num_processes: int = 1) -> None:
        self.num_processes = num_processes
        self._reset()

    def _reset(self) -> None:
        self.started = time.perf_counter()
        self.samples = 0
        self.waited = 0.0
        self.paused = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here is waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent here is not training."""
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start

    def count(self, samples: int) -> None:
        """Add this process's samples of a micro step."""
        self.samples += samples

    def read(self) -> dict[str, float]:
        """Samples a second over all processes and the share of waiting since the last reading."""
        seconds = max(time.perf_counter() - self.started - self.paused, 1e-9)
        rates = {
            "samples_per_second": self.samples * self.num_processes / seconds,
            "data_wait": self.waited / seconds,
        }
        self._reset()
        return rates
