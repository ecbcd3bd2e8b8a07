"""What happens once in a while in a run: lines in the log, an evaluation, a checkpoint. Rank 0 does it, all wait."""

import difflib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from vlp.engine.checkpoint import list_checkpoints
from vlp.engine.folder import LOG, RANKS, SKIPPED, record_end
from vlp.engine.guard import Guard
from vlp.engine.log import Progress, Tracker, open_log, open_trackers
from vlp.engine.retention import Retention
from vlp.engine.run import RunConfig
from vlp.engine.sharding import whole_optimizer, whole_state
from vlp.engine.signals import Interrupted, Stopped, StopSignals
from vlp.engine.writer import CheckpointWriter
from vlp.types import Loss

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass
class Measured:
    """One evaluation: scalars for the log and a text for the screen."""

    scalars: dict[str, float]
    table: str


@dataclass
class Session:
    """A run's hooks. `files` and `state` go into every checkpoint as they are."""

    run: RunConfig
    config: dict[str, Any]  # the resolved config as a record
    accelerator: Accelerator
    task: nn.Module  # unwrapped
    optimizer: torch.optim.Optimizer
    prepared: Any  # the optimizer as the launch wrapped it
    files: dict[str, bytes]
    state: dict[str, Any]
    measure: Callable[[], Measured] | None  # leaves the task in evaluation mode, or not: `evaluate` puts it back
    bad_samples: Callable[[], dict[str, int]]  # so far, by cause
    start: int
    guard: Guard
    signals: StopSignals
    metrics: dict[str, float] = field(default_factory=dict)  # newest values of everything logged

    def __post_init__(self) -> None:
        self.folder = Path(self.run.out)
        self.is_main = self.accelerator.is_main_process
        self.progress = Progress(self.run.steps, self.start, enabled=self.is_main)
        retention = Retention(self.run.keep, self.run.keep_best, self.run.keep_hours)
        self.writer = CheckpointWriter(self.folder, retention, asynchronous=self.run.checkpoint_async)
        self.measured: tuple[int, dict[str, float]] = (self.start, {})  # what was logged at the newest step
        self.writers: list[Tracker] = []
        if self.is_main:
            self.writers = [open_log(self.folder / LOG), *open_trackers(self.run.trackers, self.folder, self.config)]

    def log(self, step: int, values: dict[str, float], ranks: list[dict[str, float]]) -> None:
        """Write a step's values everywhere and show them; the times of each rank go to a file of their own."""
        bad = sum(self.bad_samples().values())
        counts = {"bad_samples": bad, "skipped_steps": self.guard.skipped}
        self._write(step, values | {name: float(count) for name, count in counts.items() if count})
        if self.is_main:
            names = list(ranks[0])
            open_log(self.folder / RANKS)(step, {name: [row[name] for row in ranks] for name in names})
        self.progress.show(step, values)

    def skip(self, step: int, cause: str, losses: list[Loss], keys: list[list[str]]) -> None:
        """Note a step that is not taken: each rank's losses and sample keys. Collective."""
        terms = [{name: _json_number(float(v)) for name, v in loss.report.items()} for loss in losses]
        record = {"rank": self.accelerator.process_index, "losses": terms, "keys": keys}
        ranks = gather_object([record])
        if self.is_main:
            open_log(self.folder / SKIPPED)(step, {"cause": cause, "ranks": ranks})
        self.progress.say(f"step {step} skipped: {cause}")

    def evaluate(self, step: int) -> None:
        """Measure and log; training goes on as if nothing had been. A signal ends the measuring."""
        if self.measure is not None and self.is_main:
            try:
                with self.signals.interruptible():
                    self.task.eval()
                    measured = self.measure()
                self._write(step, measured.scalars)
                self.progress.say(f"step {step}\n{measured.table}")
            except Interrupted:
                self.progress.say(f"step {step}: the evaluation was broken off by a signal")
            finally:
                self.task.train()
        self.accelerator.wait_for_everyone()

    def checkpoint(self, step: int) -> None:
        """Write everything that a resumed run needs. Collective where weights or optimizer state are cut."""
        tensors = {
            MODEL: whole_state(self.accelerator, self.task),
            OPTIMIZER: whole_optimizer(self.accelerator, self.optimizer, self.prepared, self.task),
        }
        if self.is_main:
            scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
            measured = self.measured[1] if self.measured[0] == step else {}
            state = {"scaler": scaler, "guard": self.guard.state(), "metrics": self.metrics, "measured": measured}
            self._check_best(step)
            self.writer.save(step, tensors=tensors, files=self.files, state=self.state | state)
        self.accelerator.wait_for_everyone()

    def wants_stop(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signals.received is not None

    def finish(self, step: int) -> dict[str, float]:
        """Wait for the last checkpoint, close the bar, say where the result is; returns the newest metrics.

        Raises Stopped when the run ends before its last step, because a signal asked for it.
        """
        self.writer.wait()
        self.progress.close()
        for cause, count in self.bad_samples().items():
            self.progress.say(f"{count} samples left out: {cause}")
        if self.guard.skipped:
            self.progress.say(f"{self.guard.skipped} steps skipped, see {self.folder / SKIPPED}")
        stopped = step < self.run.steps
        state = f"stopped by {self.signals.received.name if self.signals.received else 'another rank'}"
        self._end(state if stopped else "finished", step)
        if stopped:
            self.progress.say(f"{state} after step {step}, which is saved; go on with --resume")
            raise Stopped
        self.progress.say(f"done: step {self.run.steps}, newest checkpoint {list_checkpoints(self.folder)[-1]}")
        return self.metrics

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """An error that ends the run is noted in run.json."""
        try:
            yield
        except Exception as error:
            self._end(f"failed: {type(error).__name__}", None)
            raise

    def late(self, text: str) -> None:
        """Note in run.json that the watch has ended the run, and why."""
        self._end(f"stopped: {text}", None)

    def _end(self, state: str, step: int | None) -> None:
        if self.is_main:
            record_end(self.folder, state, step)

    def _check_best(self, step: int) -> None:
        name = self.run.keep_best.removeprefix("-")
        if name and step == self.run.steps and name not in self.metrics:
            near = difflib.get_close_matches(name, self.metrics, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            warnings.warn(f"run.keep_best: this run logs no metric {name!r}{hint}", stacklevel=2)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.metrics |= values
        self.measured = (step, (self.measured[1] if self.measured[0] == step else {}) | values)
        for write in self.writers:
            write(step, values)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
