"""What happens once in a while in a run: lines in the log, an evaluation, a checkpoint. Rank 0 does it, all wait."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vlp.engine import checkpoint
from vlp.engine.folder import LOG
from vlp.engine.log import Progress, Tracker, open_log, open_trackers
from vlp.engine.run import RunConfig
from vlp.engine.tensors import optimizer_tensors

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
    files: dict[str, bytes]
    state: dict[str, Any]
    measure: Callable[[], Measured] | None  # leaves the task in evaluation mode, or not: `evaluate` puts it back
    bad_samples: Callable[[], dict[str, int]]  # so far, by cause
    start: int
    metrics: dict[str, float] = field(default_factory=dict)  # newest values of everything logged

    def __post_init__(self) -> None:
        self.folder = Path(self.run.out)
        self.is_main = self.accelerator.is_main_process
        self.progress = Progress(self.run.steps, self.start, enabled=self.is_main)
        self.writers: list[Tracker] = []
        if self.is_main:
            self.writers = [open_log(self.folder / LOG), *open_trackers(self.run.trackers, self.folder, self.config)]

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write a step's values everywhere and show them."""
        bad = sum(self.bad_samples().values())
        self._write(step, values | ({"bad_samples": bad} if bad else {}))
        self.progress.show(step, values)

    def evaluate(self, step: int) -> None:
        """Measure and log; training goes on as if nothing had been."""
        if self.measure is not None and self.is_main:
            self.task.eval()
            measured = self.measure()
            self.task.train()
            self._write(step, measured.scalars)
            self.progress.say(f"step {step}\n{measured.table}")
        self.accelerator.wait_for_everyone()

    def checkpoint(self, step: int) -> None:
        """Write everything that a resumed run needs."""
        if self.is_main:
            scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
            checkpoint.save(
                self.folder,
                step,
                tensors={
                    MODEL: self.task.state_dict(),
                    OPTIMIZER: optimizer_tensors(self.optimizer, self.task),
                },
                files=self.files,
                state=self.state | {"scaler": scaler, "metrics": self.metrics},
                keep=self.run.keep,
            )
        self.accelerator.wait_for_everyone()

    def finish(self) -> dict[str, float]:
        """Close the bar, say what was left out and where the result is; returns the newest metrics."""
        self.progress.close()
        for cause, count in self.bad_samples().items():
            self.progress.say(f"{count} samples left out: {cause}")
        newest = checkpoint.list_checkpoints(self.folder)[-1]
        self.progress.say(f"done: step {self.run.steps}, newest checkpoint {newest}")
        return self.metrics

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.metrics |= values
        for write in self.writers:
            write(step, values)
