"""Two ranks equal one rank with the joined batch, in loss and gradients."""

import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.parts import batch, two_stream
from vlp.config import build, lazy
from vlp.objectives.itc import ITC
from vlp.objectives.sigmoid import SigmoidContrast
from vlp.task import Task
from vlp.types import Batch
from vlp.view import View


def part(b: Batch, rank: int, world: int) -> Batch:
    n = len(b) // world
    cut = slice(rank * n, (rank + 1) * n)
    names = ("text_ids", "text_mask", "word_ids", "image_id", "caption_id", "image")
    return Batch(**{k: getattr(b, k)[cut] for k in names})


def loss_and_gradients(b: Batch, form: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    task: Task = build(lazy(Task)(**two_stream(teacher=form == "teacher")))
    task, b = task.double(), replace(b, image=b.image.double())
    objective = (SigmoidContrast(chunk=3) if form == "sigmoid" else ITC()).double()
    value = objective(View(task.model, b, momentum=task.teacher)).value
    value.backward()
    return value.detach(), {
        n: p.grad for n, p in [*task.model.named_parameters(), *objective.named_parameters()] if p.grad is not None
    }


def work(rank: int, world: int, folder: str, form: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    value, gradients = loss_and_gradients(part(batch(), rank, world), form)
    for tensor in [value, *gradients.values()]:  # what DDP does
        dist.all_reduce(tensor)
        tensor /= world
    if rank == 0:
        torch.save({"value": value, **gradients}, f"{folder}/joined.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    for form in ("itc", "teacher", "sigmoid"):
        folder = tmp_path / form
        folder.mkdir()
        mp.spawn(work, args=(2, str(folder), form), nprocs=2)
        joined = torch.load(folder / "joined.pt", weights_only=True)
        value, gradients = loss_and_gradients(batch(), form)
        torch.testing.assert_close(joined.pop("value"), value, rtol=1e-7, atol=1e-7)
        assert joined.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(joined[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
