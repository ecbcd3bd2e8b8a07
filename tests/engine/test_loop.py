"""The loop: accumulation, cadence, divergence, and a resumed run that cannot be told from an unbroken one."""

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.engine import loop
from vlp.engine.loop import DivergenceError
from vlp.engine.optim import OptimConfig
from vlp.engine.tensors import load_optimizer, optimizer_tensors
from vlp.types import Batch


def test_the_loop_fits_on_a_screen_and_has_its_paragraphs() -> None:
    source = inspect.getsource(loop.train)
    titles = ["schedule", "micro steps", "clip", "optimizer", "after_step", "log", "evaluate", "checkpoint"]
    places = [source.index(f"# {title}\n") for title in titles]
    assert len(source.splitlines()) < 80
    assert places == sorted(places)


def test_accumulated_micro_batches_equal_the_big_batch(toy: Callable[..., Any]) -> None:
    whole = toy(steps=6).train().weights()
    parts = toy(steps=6, accumulate=4).train()
    for name, value in parts.weights().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-7)
    assert parts.logs[1]["size"] == 2  # eight pairs in four micro batches


def test_clipping_bounds_the_update_and_reports_the_norm_before_it(toy: Callable[..., Any]) -> None:
    loose, tight = (toy(steps=1, optim=OptimConfig(clip=clip)) for clip in (0.0, 1e-3))
    gradients = []
    for run in (loose, tight):
        run.inner.after_step = lambda: None
        original = run.optimizer.step
        run.optimizer.step = lambda run=run, original=original: (
            gradients.append(torch.cat([p.grad.flatten().clone() for p in run.inner.parameters()])),
            original(),
        )
        run.train()
    assert float(gradients[0].norm()) == pytest.approx(loose.logs[1]["grad_norm"], rel=1e-5)
    assert float(gradients[1].norm()) == pytest.approx(1e-3, rel=1e-3)
    assert tight.logs[1]["grad_norm"] == pytest.approx(loose.logs[1]["grad_norm"])


def test_hooks_come_when_due_in_order_and_after_the_last_step(toy: Callable[..., Any]) -> None:
    calls = toy(steps=5, log_every=3, eval_every=2, checkpoint_every=4).train().calls
    assert calls == [
        ("evaluate", 2),
        ("log", 3),
        ("evaluate", 4),
        ("checkpoint", 4),
        ("log", 5),
        ("evaluate", 5),
        ("checkpoint", 5),
    ]


def test_the_logged_rate_is_the_schedule_and_after_step_comes_once_a_step(toy: Callable[..., Any]) -> None:
    run = toy(steps=4, accumulate=2, optim=OptimConfig(lr=1.0, min_lr=0.0, warmup_steps=2)).train()
    assert [run.logs[s]["lr"] for s in range(1, 5)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert int(run.inner.steps) == 4


def test_a_nan_loss_stops_before_the_weights(toy: Callable[..., Any], batch_of: Callable[..., Batch]) -> None:
    run = toy(steps=5)

    def batches() -> Iterator[Batch]:
        for i in range(5):
            batch = batch_of(i)
            if i == 2:
                assert batch.features is not None
                batch.features[3] = math.nan
            yield batch

    with pytest.raises(DivergenceError, match=r"step 3: the loss is nan .*2-0, .*2-3"):
        run.train(batches())
    assert torch.isfinite(run.inner.layer.weight).all()
    assert run.calls[-1] == ("log", 2)


def test_a_gradient_that_overflows_stops_too(toy: Callable[..., Any]) -> None:
    run = toy(steps=2)
    run.inner.layer.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergenceError, match="step 1: the gradient's norm is"):
        run.train()
    assert torch.isfinite(run.inner.layer.weight).all()


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_resuming_equals_never_stopping_bit_for_bit(toy: Callable[..., Any], stop: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.5, "accumulate": 2}
    unbroken = toy(steps=7, **settings).train()

    first = toy(steps=7, checkpoint_every=stop, **settings)
    saved: list[Any] = []

    def stop_here(step: int) -> None:
        saved.extend([first.weights(), {k: v.clone() for k, v in optimizer_tensors(first.adamw, first.inner).items()}])
        raise KeyboardInterrupt

    first.on_checkpoint = stop_here
    with pytest.raises(KeyboardInterrupt):
        first.train()

    second = toy(steps=7, **settings)
    second.inner.load_state_dict(saved[0])
    load_optimizer(second.adamw, second.inner, saved[1], source=Path("checkpoint"))
    second.train(start=stop)
    assert all(torch.equal(value, unbroken.weights()[name]) for name, value in second.weights().items())
    assert [second.logs[s]["loss"] for s in range(stop + 1, 8)] == [
        unbroken.logs[s]["loss"] for s in range(stop + 1, 8)
    ]


def test_random_draws_in_an_evaluation_change_nothing(toy: Callable[..., Any]) -> None:
    quiet = toy(steps=4, dropout=0.5).train().weights()
    noisy = toy(steps=4, dropout=0.5, eval_every=1)
    noisy.on_evaluate = lambda step: torch.rand(step)
    assert torch.equal(noisy.train().weights()["layer.weight"], quiet["layer.weight"])


def test_another_seed_drops_out_other_units(toy: Callable[..., Any]) -> None:
    one, other = (toy(steps=1, dropout=0.5) for _ in range(2))
    other.run.seed = 1
    assert one.train().logs[1]["loss"] != other.train().logs[1]["loss"]


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(toy: Callable[..., Any]) -> None:
    run = toy(steps=1, precision="bf16")
    seen: list[torch.dtype] = []
    run.inner.layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run.train()
    assert seen == [torch.bfloat16]
    assert run.inner.layer.weight.dtype is torch.float32
