"""Launch checks: each of Accelerate's silent fallbacks must become an error."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from vlp.config import ConfigError
from vlp.engine import launch
from vlp.engine.launch import LaunchError, check_wrapper
from vlp.engine.run import RunConfig


@pytest.mark.usefixtures("fresh_accelerate")
def test_processes_that_do_not_know_each_other_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # what torchrun sets; without a process group Accelerate sees one process
    monkeypatch.setattr("accelerate.state.PartialState._prepare_backend", lambda *a, **k: (None, DistributedType.NO))
    with pytest.raises(LaunchError, match="started 2 processes but Accelerate sees 1"):
        launch.start(RunConfig())


@pytest.mark.usefixtures("fresh_accelerate")
def test_accumulation_set_by_the_launcher_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(LaunchError, match=r"gradient_accumulation_steps 4 overrides run\.accumulate=2"):
        launch.start(RunConfig(accumulate=2))


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_precision_that_is_ignored_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.warns(UserWarning, match="mixed precision 'bf16' is ignored"):
        assert launch.start(RunConfig()).mixed_precision == "no"


@pytest.mark.parametrize(
    ("kind", "processes", "wrapped"),
    [
        (DistributedType.NO, 2, "task"),  # gloo handler without a plugin: two processes, nothing wrapped
        (DistributedType.MULTI_CPU, 2, "task"),
        (DistributedType.NO, 1, "other"),
        (DistributedType.DEEPSPEED, 2, "task"),
        (DistributedType.MEGATRON_LM, 2, "other"),
    ],
)
def test_a_task_without_its_wrapper_is_an_error(kind: DistributedType, processes: int, wrapped: str) -> None:
    task = nn.Linear(1, 1)
    with pytest.raises(LaunchError, match="gradients would not be exchanged"):
        check_wrapper(kind, processes, task if wrapped == "task" else nn.Sequential(task), task)


def test_the_right_wrappers_pass() -> None:
    task = nn.Linear(1, 1)
    check_wrapper(DistributedType.NO, 1, task, task)
    ddp = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    check_wrapper(DistributedType.MULTI_CPU, 2, ddp, task)


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.usefixtures("fresh_accelerate")
def test_threads_are_torchs_own_choice_unless_set(threads: int) -> None:
    launch.start(RunConfig())
    assert torch.get_num_threads() == threads
    launch.start(RunConfig(threads=threads + 1))
    assert torch.get_num_threads() == threads + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, r"run\.steps is 0"),
        ({"accumulate": 0}, r"run\.accumulate is 0"),
        ({"keep": -1}, r"run\.keep is -1"),
        ({"precision": "fp8"}, r"run\.precision is 'fp8'; choose one of no, bf16, fp16"),
    ],
)
def test_impossible_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**fields).check()


def test_switches_reach_every_part_that_has_them(toy: Callable[..., Any]) -> None:
    from vlp.engine.switches import apply_switches

    inner = toy(steps=1).inner
    with pytest.warns(UserWarning, match="no part of this task can recompute"):
        apply_switches(inner, RunConfig(checkpointing=True))
    seen: list[bool] = []
    inner.layer.set_checkpointing = seen.append
    compiled: list[bool] = []
    inner.compile = lambda: compiled.append(True)
    apply_switches(inner, RunConfig(checkpointing=True, compile=True))
    apply_switches(inner, RunConfig())
    assert (seen, compiled) == ([True, False], [True])
