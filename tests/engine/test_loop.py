"""The loop: accumulation, cadence, divergence, and a resumed run that cannot be told from an unbroken one."""

import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from vlp.engine import loop
from vlp.engine.guard import DivergenceError
from vlp.engine.optim import OptimConfig
from vlp.engine.tensors import load_optimizer, optimizer_tensors
from vlp.types import Batch


def test_the_loop_fits_on_a_screen_and_has_its_paragraphs() -> None:
    source = inspect.getsource(loop.train)
    titles = [
        "schedule",
        "micro steps",
        "clip",
        "optimizer, after_step",
        "log",
        "evaluate",
        "checkpoint",
    ]
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


def poisoned(batch_of: Callable[..., Batch], *steps: int, last: int = 20) -> Iterator[Batch]:
    """The toy's batches, with a NaN in those of some steps (counted from 1)."""
    for step in range(1, last + 1):
        batch = batch_of(step - 1)
        if step in steps:
            assert batch.features is not None
            batch.features[3] = math.nan
        yield batch


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    toy: Callable[..., Any], batch_of: Callable[..., Batch]
) -> None:
    run = toy(steps=6).train(poisoned(batch_of, 3, 4))
    assert [step for call, step in run.calls if call == "skip"] == [3, 4]
    cause, keys = run.skips[3]
    assert cause == "the loss is not finite"
    assert "2-3" in keys[0]
    assert int(run.inner.steps) == 4  # after_step came after the steps that were taken
    assert (run.guard.skipped, run.guard.in_a_row) == (2, 0)
    assert all(torch.isfinite(value).all() for value in run.weights().values())


def test_a_skipped_step_changes_nothing(toy: Callable[..., Any], batch_of: Callable[..., Batch]) -> None:
    run = toy(steps=3)
    run.train(poisoned(batch_of), start=1)  # steps 2 and 3
    before, moments = run.weights(), {k: v.clone() for k, v in optimizer_tensors(run.adamw, run.inner).items()}
    run.run.steps = 4
    run.train(poisoned(batch_of, 1), start=3)
    assert run.skips
    assert all(torch.equal(value, before[name]) for name, value in run.weights().items())
    assert all(torch.equal(v, moments[k]) for k, v in optimizer_tensors(run.adamw, run.inner).items())


def test_too_many_skips_in_a_row_stop_the_run(toy: Callable[..., Any], batch_of: Callable[..., Batch]) -> None:
    run = toy(steps=9, max_skips=3)
    with pytest.raises(DivergenceError, match=r"step 7: the loss is not finite; 3 steps in a row .*/skipped\.jsonl"):
        run.train(poisoned(batch_of, 2, 3, 5, 6, 7, last=9))
    assert torch.isfinite(run.inner.layer.weight).all()


def test_a_gradient_that_overflows_is_skipped_too(toy: Callable[..., Any]) -> None:
    run = toy(steps=2, max_skips=1)
    run.inner.layer.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergenceError, match="step 1: the gradient is not finite"):
        run.train()
    assert torch.isfinite(run.inner.layer.weight).all()


def test_an_overflow_under_a_loss_scale_lowers_it_and_is_no_divergence(toy: Callable[..., Any]) -> None:
    run = toy(steps=6, max_skips=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-40)
    run.accelerator.scaler = scaler
    run.optimizer = AcceleratedOptimizer(run.adamw, scaler=scaler)
    run.accelerator.unscale_gradients = lambda: scaler.unscale_(run.adamw)  # as on a GPU
    before = run.weights()
    run.inner.layer.weight.register_hook(lambda gradient: gradient * 2.0**30)
    run.train()
    causes = {cause for cause, _ in run.skips.values()}
    assert causes == {"overflow at this loss scale"}
    assert scaler.get_scale() < 2.0**127
    assert int(run.inner.steps) == 6 - len(run.skips) > 0
    assert not torch.equal(run.weights()["layer.weight"], before["layer.weight"])


def spiked(batch_of: Callable[..., Batch], *steps: int, last: int = 60) -> Iterator[Batch]:
    for step in range(1, last + 1):
        batch = batch_of(step - 1)
        if step in steps:
            assert batch.features is not None
            batch.features *= 30
        yield batch


def test_an_outlier_is_skipped_when_asked_and_not_before_there_is_enough_to_compare_with(
    toy: Callable[..., Any], batch_of: Callable[..., Batch]
) -> None:
    guarded = toy(steps=45, spike=8.0).train(spiked(batch_of, 40))
    assert list(guarded.skips) == [40]
    assert guarded.skips[40][0] == "the loss is an outlier"
    assert not toy(steps=20, spike=8.0).train(spiked(batch_of, 5)).skips
    assert not toy(steps=45).train(spiked(batch_of, 40)).skips


def test_a_resumed_guard_judges_as_an_unbroken_one(toy: Callable[..., Any], batch_of: Callable[..., Batch]) -> None:
    first = toy(steps=39, spike=8.0).train(spiked(batch_of))
    second = toy(steps=41, spike=8.0)
    second.guard.load(json.loads(json.dumps(first.guard.state())))
    second.inner.load_state_dict(first.weights())
    second.train(spiked(batch_of, 1), start=39)
    assert list(second.skips) == [40]


def test_a_wish_to_stop_finishes_the_step_saves_and_leaves_the_evaluation_out(toy: Callable[..., Any]) -> None:
    run = toy(steps=9, log_every=100, eval_every=4)
    run.stop_at = 4
    run.train()
    assert run.last == 4
    assert int(run.inner.steps) == 4
    assert run.calls == [("log", 4), ("checkpoint", 4)]


def test_a_wish_to_stop_in_the_last_step_changes_nothing(toy: Callable[..., Any]) -> None:
    run = toy(steps=4, log_every=100)
    run.stop_at = 4
    assert run.train().last == 4
    assert run.calls == [("log", 4), ("evaluate", 4), ("checkpoint", 4)]


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
