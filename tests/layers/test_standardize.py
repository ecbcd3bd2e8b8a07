"""Running statistics against those of all vectors at once, on one rank and on two."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.layers.standardize import Standardize


def run(layer: Standardize, steps: list[list[Tensor]]) -> None:
    """Each step some forward passes, then what comes after a step."""
    layer.train()
    for passes in steps:
        for vectors in passes:
            layer(vectors)
        layer.after_step()


@settings(deadline=None)
@given(seed=st.integers(0, 999), sizes=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1))
def test_statistics_are_those_of_all_vectors(seed: int, sizes: list[list[int]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.0, 300.0, 0.01, 5.0]).double()
    steps = [[torch.randn(n, 2, 4, generator=generator).double() * scales + 7 for n in passes] for passes in sizes]
    layer = Standardize(width=4).double()
    run(layer, steps)
    every = torch.cat([vectors.flatten(0, 1) for passes in steps for vectors in passes])
    new = torch.randn(3, 4, generator=generator).double()
    expected = (new - every.mean(0)) / (every.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(layer.eval()(new), expected, rtol=1e-9, atol=1e-9)


def test_forward_changes_nothing_and_evaluation_leaves_no_trace() -> None:
    layer, vectors = Standardize(width=3), torch.randn(5, 3)
    torch.testing.assert_close(layer(vectors), vectors)  # nothing known yet
    assert layer.count == 0
    layer.discard_step()
    layer.eval()(vectors)
    layer.after_step()
    assert layer.count == 0
    run(layer, [[vectors]])
    before = layer.mean.clone()
    layer(vectors + 1)
    assert torch.equal(layer.mean, before)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    layer, rows = Standardize(width=3), torch.load(f"{folder}/rows.pt", weights_only=True)
    run(layer, [[step[4 * rank : 4 * rank + 4]] for step in rows])
    if rank == 0:
        torch.save(layer.state_dict(), f"{folder}/layer.pt")
    dist.destroy_process_group()


def test_two_ranks_know_what_one_knows(tmp_path: Path) -> None:
    rows = torch.randn(3, 8, 3)
    torch.save(rows, tmp_path / "rows.pt")
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    alone = Standardize(width=3)
    run(alone, [[step] for step in rows])
    for name, value in torch.load(tmp_path / "layer.pt", weights_only=True).items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-5, atol=1e-6)
