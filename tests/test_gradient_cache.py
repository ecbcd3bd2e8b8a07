"""Gradient caching: many small micro batches are one large batch, in loss and gradients, on any number of ranks."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests import ranks
from tests.layers.test_gather import part
from tests.parts import batch, two_stream
from tests.small_run import small_config, write_data
from vlp import training
from vlp.config import ConfigError, build, lazy
from vlp.engine.run import RunConfig
from vlp.engine.tensors import read_tensors
from vlp.objectives.intra_modal import IntraModalContrast
from vlp.objectives.itc import ITC
from vlp.objectives.mlm import MLM
from vlp.objectives.sigmoid import SigmoidContrast
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View

SIZE, MICRO = 12, 2  # pairs of the whole step, micro batches of each rank
OBJECTIVES: dict[str, dict[str, Any]] = {
    "itc": {"itc": lazy(ITC)()},
    "sigmoid round the ring": {"sigmoid": lazy(SigmoidContrast)(chunk=3, ring=True, weight=0.5)},
    "itc and within a modality, with teacher and queue": {
        "itc": lazy(ITC)(chunk=5),
        "imc": lazy(IntraModalContrast)(),
    },
}


def make(form: str, dropout: float = 0.0) -> Task:
    torch.manual_seed(0)
    parts = two_stream(teacher="queue" in form, dropout=dropout) | {"objectives": OBJECTIVES[form]}
    task: Task = build(lazy(Task)(**parts))
    if task.teacher is not None:
        rows = torch.nn.functional.normalize(torch.randn(10, 16), dim=1)
        task.teacher.update([(rows, rows.flip(0), torch.arange(100, 110))])
    return task.double()


def in_double(b: Batch) -> Batch:
    assert b.image is not None
    return replace(b, image=b.image.double())


def gradients(task: Task) -> dict[str, Tensor]:
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def whole(form: str) -> tuple[Tensor, dict[str, Tensor], Task]:
    task = make(form)
    value = task(in_double(batch(SIZE))).value
    value.backward()
    return value.detach(), gradients(task), task


def cached(task: Task, micro_batches: list[Batch]) -> Tensor:
    """The loss of the step, as the loop takes it: the mean over the micro batches. Gradients are left on the task."""
    with torch.no_grad():
        parts = []
        for i, b in enumerate(micro_batches):
            torch.manual_seed(i)
            parts.append(task.embed(b))
        caches = task.contrast(parts)
    losses = []
    for i, (b, cache) in enumerate(zip(micro_batches, caches, strict=True)):
        torch.manual_seed(i)
        losses.append(task(b, cache).value / len(micro_batches))
        losses[-1].backward()
    return torch.stack(losses).sum().detach()


def work(folder: str) -> None:
    """One rank: every form on its micro batches, averaged over the ranks as DDP does; and what the queue then holds."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    for i, form in enumerate(OBJECTIVES):
        task = make(form)
        mine = [part(in_double(batch(SIZE)), rank * MICRO + k, world * MICRO) for k in range(MICRO)]
        found = {"value": cached(task, mine), **gradients(task)}
        for tensor in found.values() if world > 1 else []:
            dist.all_reduce(tensor)
            tensor /= world
        if task.teacher is not None:
            task.after_step()
            found["queued"] = task.teacher.queue_ids.sort().values
        if rank == 0:
            torch.save(found, f"{folder}/{i}.pt")


@pytest.mark.parametrize("world", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_micro_batches_with_a_cache_are_one_batch(world: int, tmp_path: Path) -> None:
    ranks.finish(ranks.start(world, tmp_path / "run", work, str(tmp_path)), tmp_path / "run")
    for i, form in enumerate(OBJECTIVES):
        found = torch.load(tmp_path / f"{i}.pt", weights_only=True)
        value, wanted, task = whole(form)
        torch.testing.assert_close(found.pop("value"), value, rtol=1e-7, atol=1e-7)
        if task.teacher is not None:
            task.after_step()
            assert torch.equal(found.pop("queued"), task.teacher.queue_ids.sort().values)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda m, n=name, f=form: f"{f}, {n}: {m}"
            )


def test_without_a_cache_they_are_not() -> None:
    """So that the tests above compare something: plain accumulation contrasts half of the pairs at a time."""
    value, wanted, _ = whole("itc")
    task, halves = make("itc"), [part(in_double(batch(SIZE)), k, MICRO) for k in range(MICRO)]
    losses = torch.stack([task(half).value / MICRO for half in halves]).sum()
    losses.backward()
    assert abs(float(losses.detach() - value)) > 0.1
    name = "model.similarities.itc.image_projection.weight"
    assert (gradients(task)[name] - wanted[name]).norm() > 0.1 * wanted[name].norm()


def test_dropout_draws_the_same_in_both_passes() -> None:
    """Against the graphs of all micro batches kept, which is what the cache is there to avoid."""
    slow, task = make("itc", dropout=0.2).train(), make("itc", dropout=0.2).train()
    micro_batches = [part(in_double(batch(SIZE)), k, 3) for k in range(3)]
    views = []
    for i, b in enumerate(micro_batches):
        torch.manual_seed(i)
        views.append(View(slow.model, b))
        views[-1].image_embedding, views[-1].text_embedding  # noqa: B018 - made here, in this order
    joined = View(slow.model, in_double(batch(SIZE)))
    joined.image_embedding = torch.cat([view.image_embedding for view in views])
    joined.text_embedding = torch.cat([view.text_embedding for view in views])
    value = slow.objectives["itc"](joined).value
    value.backward()
    torch.testing.assert_close(cached(task, micro_batches), value.detach())
    wanted = gradients(slow)
    for name, gradient in gradients(task).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_objectives_of_tokens_see_their_micro_batch_as_ever() -> None:
    """Masked words beside the contrast: its gradients are those of the whole, theirs those of plain accumulation."""
    halves = [part(in_double(batch(SIZE)), k, MICRO) for k in range(MICRO)]

    def task_of(**objectives: nn.Module) -> Task:
        task = make("itc")
        torch.manual_seed(1)
        words = MLM(width=32, vocab_size=60, mask_id=4, first_word_id=6, probability=0.3).double()
        task.objectives = nn.ModuleDict({**objectives, "mlm": words})
        return task

    both, alone = task_of(itc=ITC()), task_of()
    cached(both, halves)
    for i, half in enumerate(halves):
        torch.manual_seed(i)
        (alone(half).value / MICRO).backward()
    _, contrast, _ = whole("itc")
    words = gradients(alone)
    for name, gradient in gradients(both).items():
        wanted = contrast.get(name, torch.zeros_like(gradient)) + words.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def contrast_alone(data: str, out: str, objective: str, accumulate: int, **run: Any) -> None:
    """A few steps of a dual encoder."""
    config = small_config(data, out, steps=4, eval_every=0, checkpoint_every=0, accumulate=accumulate, **run)
    model: Any = config.model
    del model.kwargs["fusion"], model.kwargs["similarities"]["itm"]
    model.kwargs["text"].kwargs["dropout"] = 0.0
    config.objectives = {objective: lazy(ITC if objective == "itc" else SigmoidContrast)()}
    config.teacher = config.teacher if objective == "itc" else None
    config.evaluation.k = 0
    config.data.val = ""
    training.run(config)


def cached_run(data: str, out: str, objective: str) -> None:
    """The same steps in two micro batches."""
    contrast_alone(data, out, objective, 2, gradient_cache=True)


def plain_run(data: str, out: str, objective: str) -> None:
    """The same steps, each in one batch."""
    contrast_alone(data, out, objective, 1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["itc", "sigmoid"])
def test_a_run_in_micro_batches_on_two_ranks_is_the_run_of_whole_batches(objective: str, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    weights = []
    for world, run in ((1, plain_run), (2, cached_run)):
        out = tmp_path / run.__name__
        ranks.finish(ranks.start(world, out, run, str(data), str(out), objective), out)
        weights.append(read_tensors(out / "step-00000004" / "model.safetensors"))
    for name, value in weights[0].items():
        if "queue" not in name:  # which holds the same embeddings in another order
            torch.testing.assert_close(weights[1][name], value, rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_cache_for_one_micro_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set run\.accumulate above 1"):
        RunConfig(gradient_cache=True).check()


def test_a_task_without_contrast_is_refused(tmp_path: Path) -> None:
    config = small_config(write_data(tmp_path / "data"), tmp_path / "out", accumulate=2, gradient_cache=True)
    config.objectives = {"mlm": config.objectives["mlm"]}
    with pytest.raises(ConfigError, match=r"run\.gradient_cache.*no objective"):
        training.build_task(config)
