"""A task, batches and a run small enough to reason about."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

from vlp.engine import launch
from vlp.engine.guard import Guard
from vlp.engine.loop import Hooks, train
from vlp.engine.meter import Meter
from vlp.engine.optim import OptimConfig, build_optimizer
from vlp.engine.run import RunConfig
from vlp.types import Batch, Loss


class ToyTask(nn.Module):
    """A linear readout with dropout, and a counter that only `after_step` moves."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.steps: Tensor

    def forward(self, batch: Batch) -> Loss:
        assert batch.features is not None
        value = (self.layer(self.dropout(batch.features)) - 1).square().mean()
        return Loss(value, {"size": torch.tensor(float(len(batch)))})

    def after_step(self) -> None:
        self.steps += 1

    def discard_step(self) -> None:
        pass


def toy_batch(step: int, size: int = 8) -> Batch:
    """The batch of step 0, 1, ...: a function of its number."""
    features = torch.randn(size, 4, generator=torch.Generator().manual_seed(step))
    ids = torch.zeros(size, 1, dtype=torch.int64)
    number = torch.arange(size)
    keys = [f"{step}-{i}" for i in range(size)]
    return Batch(ids, ids == 0, ids, number, number, features=features, keys=keys)


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch cut into micro batches."""
    assert batch.features is not None
    size = len(batch) // parts
    pieces = [toy_batch(0, size) for _ in range(parts)]
    for i, piece in enumerate(pieces):
        piece.features = batch.features[i * size : (i + 1) * size]
        piece.keys = batch.keys[i * size : (i + 1) * size]
    return pieces


def toy_batches(start: int = 0, accumulate: int = 1) -> Iterator[Batch]:
    """Endless micro batches from step `start` (counted from 0)."""
    while True:
        yield from split(toy_batch(start), accumulate)
        start += 1


@dataclass
class Toy:
    """A toy run: everything that `train` needs, and a record of what its hooks were told."""

    run: RunConfig
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-2, weight_decay=0.1))
    dropout: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)
    logs: dict[int, dict[str, float]] = field(default_factory=dict)
    on_evaluate: Callable[[int], Any] = lambda step: None
    on_checkpoint: Callable[[int], Any] = lambda step: None
    skips: dict[int, tuple[str, list[list[str]]]] = field(default_factory=dict)  # step -> cause, keys
    stop_at: int | None = None  # the step during which the run is asked to stop

    def __post_init__(self) -> None:
        torch.manual_seed(self.run.seed)
        self.accelerator: Accelerator = launch.start(self.run)
        self.inner = ToyTask(self.dropout)
        self.adamw = build_optimizer(self.inner, self.optim)
        self.task, self.optimizer = launch.wrap(self.accelerator, self.inner, self.adamw)
        self.guard = Guard(self.run, self.accelerator)
        self.asked = 0
        self.last = -1

    def train(self, batches: Iterator[Batch] | None = None, start: int = 0) -> "Toy":
        self.asked = start
        self.last = train(
            task=self.task,
            inner=self.inner,
            optimizer=self.optimizer,
            batches=toy_batches(start, self.run.accumulate) if batches is None else batches,
            accelerator=self.accelerator,
            run=self.run,
            optim=self.optim,
            hooks=Hooks(self._log, self._evaluate, self._checkpoint, self._skip, self._wants_stop),
            guard=self.guard,
            meter=Meter(),
            start=start,
        )
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.inner.state_dict().items()}

    def _log(self, step: int, values: dict[str, float], ranks: list[dict[str, float]]) -> None:
        self.calls.append(("log", step))
        self.logs[step] = values

    def _skip(self, step: int, cause: str, losses: list[Loss], keys: list[list[str]]) -> None:
        self.calls.append(("skip", step))
        self.skips[step] = (cause, keys)

    def _wants_stop(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at

    def _evaluate(self, step: int) -> None:
        self.calls.append(("evaluate", step))
        self.on_evaluate(step)

    def _checkpoint(self, step: int) -> None:
        self.calls.append(("checkpoint", step))
        self.on_checkpoint(step)


def _forget() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate's process-wide state, forgotten before and after: it refuses a second precision otherwise."""
    _forget()
    yield
    _forget()


@pytest.fixture
def toy(fresh_accelerate: None) -> Callable[..., Toy]:
    """`toy(steps=5, accumulate=2, ...)` makes a toy run; RunConfig's fields, plus `optim` and `dropout`."""

    def make(optim: OptimConfig | None = None, dropout: float = 0.0, **run: Any) -> Toy:
        return Toy(RunConfig(**({"log_every": 1} | run)), optim or OptimConfig(lr=1e-2, weight_decay=0.1), dropout)

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """`batch_of(step, size=8)`."""
    return toy_batch
