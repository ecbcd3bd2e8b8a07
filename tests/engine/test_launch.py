"""Launch checks: each of Accelerate's silent fallbacks must become an error."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from vlp.config import ConfigError
from vlp.engine import launch
from vlp.engine.launch import LaunchError, check_parameters, check_wrapper
from vlp.engine.run import RunConfig
from vlp.engine.switches import apply_switches


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


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.FSDP])
def test_what_cannot_be_cut_is_refused_by_name(kind: DistributedType) -> None:
    task = nn.ParameterDict({"scale": torch.tensor(1.0), "weight": torch.ones(1)})
    accelerator: Any = SimpleNamespace(distributed_type=kind)
    with pytest.raises(LaunchError, match=r"without dimensions \(scale\); give them the shape \(1,\)"):
        check_parameters(accelerator, task)
    check_parameters(accelerator, nn.ParameterDict({"weight": torch.ones(1)}))


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
        ({"precision": "fp8"}, r"run\.precision is 'fp8'; choose one of auto, no, bf16, fp16"),
    ],
)
def test_impossible_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**fields).check()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.compiled: list[object] = []

    def compile(self, *args: object, **kwargs: object) -> None:
        self.compiled.append(kwargs)


def test_checkpointing_reaches_every_part_that_has_the_switch(toy: Callable[..., Any]) -> None:
    inner = toy(steps=1).inner
    with pytest.warns(UserWarning, match="no part of this task can recompute"):
        apply_switches(inner, RunConfig(checkpointing=True))
    seen: list[bool] = []
    inner.layer.set_checkpointing = seen.append
    apply_switches(inner, RunConfig(checkpointing=True))
    apply_switches(inner, RunConfig())
    assert seen == [True, False]


def test_only_stacks_of_equal_blocks_are_compiled_and_names_stay() -> None:
    mixed = nn.Sequential(nn.Linear(1, 1), Block())
    task = nn.ModuleDict({"stack": nn.ModuleList([Block(), Block()]), "mixed": mixed, "one": nn.ModuleList([Block()])})
    names = list(task.state_dict())
    apply_switches(task, RunConfig(compile=True))
    compiled = {name for name, module in task.named_modules() if isinstance(module, Block) and module.compiled}
    assert compiled == {"stack.0", "stack.1", "one.0"}
    assert list(task.state_dict()) == names
    with pytest.warns(UserWarning, match="no stack of equal blocks"):
        apply_switches(nn.ModuleDict({"mixed": mixed}), RunConfig(compile=True))


class Switched(nn.Module):
    recomputes = False

    def set_checkpointing(self, on: bool) -> None:
        self.recomputes = on


def parted() -> nn.ModuleDict:
    parts = {
        name: nn.ModuleDict({"stack": nn.ModuleList([Block()]), "recomputed": Switched()})
        for name in ("vision", "text", "fusion")
    }
    return nn.ModuleDict({"model": nn.ModuleDict(parts), "objectives": nn.ModuleList([Block()])})


def test_switches_reach_the_parts_that_a_run_names_and_no_other() -> None:
    task = parted()
    apply_switches(
        task,
        RunConfig(compile=True, compile_parts=["text"], checkpointing=True, checkpointing_parts=["vision", "fusion"]),
    )
    compiled = {name for name, module in task.named_modules() if isinstance(module, Block) and module.compiled}
    recomputed = {name for name, module in task.named_modules() if isinstance(module, Switched) and module.recomputes}
    assert compiled == {"model.text.stack.0"}
    assert recomputed == {"model.vision.recomputed", "model.fusion.recomputed"}
    apply_switches(task, RunConfig(checkpointing=True))
    assert all(module.recomputes for module in task.modules() if isinstance(module, Switched))


def test_a_part_that_the_model_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(ConfigError, match="compile_parts names 'visoin', and this model has vision, text, fusion"):
        apply_switches(parted(), RunConfig(compile=True, compile_parts=["visoin"]))
    with pytest.raises(ConfigError, match="run.checkpointing is off"):
        RunConfig(checkpointing_parts=["vision"]).check()


@pytest.mark.slow
def test_a_compiled_stack_computes_what_it_computed() -> None:
    torch.manual_seed(0)
    stack = nn.ModuleDict({"layers": nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2))})

    def outputs() -> list[torch.Tensor]:
        found = []
        for rows in (3, 5):  # sizes change from batch to batch
            value = torch.ones(rows, 4)
            for layer in stack["layers"]:
                value = layer(value)
            found.append(value.detach())
        return found

    plain = outputs()
    apply_switches(stack, RunConfig(compile=True))
    for compiled, expected in zip(outputs(), plain, strict=True):
        torch.testing.assert_close(compiled, expected)
