"""The same global batches for any world, any workers and any restart; in real processes too, and over damaged data."""

import multiprocessing
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.conftest import record
from vlp.data.config import DataConfig
from vlp.data.loader import TrainLoader
from vlp.data.mixture import Mixture
from vlp.data.tokenizer import Tokenizer

Make = Callable[..., Path]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.small_run"])
ORDERS: dict[str, dict[str, Any]] = {
    "pairs": {},
    "captions in blocks": {"captions": 3, "block": 2},
    "lengths": {"length_group": 3},
}


def settings_of(folder: Path, **data: Any) -> DataConfig:
    fixed = {"image_size": 16, "batch_size": 24, "crop_scale": (0.5, 1.0), "flip": True, "max_bad_share": 0.9}
    return DataConfig(train=str(folder), **(fixed | data))


def steps(config: DataConfig, start: int, count: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Caption ids of the rank's rows in each step."""
    words = Tokenizer.from_folder(config.folders[0])
    loader = TrainLoader(config, Mixture.from_config(config, words, 3), rank=rank, world=world, seed=3)
    return [batch.caption_id.tolist() for batch in islice(loader.batches(start), count)]


def joined(config: DataConfig, start: int, count: int, world: int) -> list[list[int]]:
    ranks = [steps(config, start, count, rank, world) for rank in range(world)]
    return [[c for rank in ranks for c in rank[step]] for step in range(count)]


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 5))
def test_any_world_continues_what_any_other_began(
    make_shards: Make, tmp_path: Path, order: str, before: int, after: int, step: int
) -> None:
    folder = tmp_path / "set" if (tmp_path / "set").exists() else make_shards(count=30)
    config = settings_of(folder, **ORDERS[order])
    unbroken = steps(config, 0, 6)
    assert joined(config, 0, step, before) + joined(config, step, 6 - step, after) == unbroken


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_reads_the_same(make_shards: Make, workers: int) -> None:
    config = settings_of(make_shards(count=30), length_group=2)
    unbroken = steps(config, 0, 5)
    config.workers = workers
    assert steps(config, 0, 5) == unbroken


def test_damage_is_the_same_for_any_world(make_shards: Make) -> None:
    folder = make_shards(count=30, per_shard=5)
    with open(folder / "shard-000002.tar", "r+b") as file:
        file.truncate(4000)
    config = settings_of(folder)
    unbroken = steps(config, 0, 4)
    assert all(len(step) == 24 for step in unbroken)
    assert all(joined(config, 0, 4, world) == unbroken for world in (2, 3, 8))


def take_part(folder: str, rank: int, world: int, start: int, count: int, meeting: str, answer: Any) -> None:
    """One rank, in a process of its own; rank 0 tells what all of them read."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    config = settings_of(Path(folder), workers=rank % 2)
    for ids in steps(config, start, count, rank, world):
        rows = [torch.empty(24 // world, dtype=torch.int64) for _ in range(world)]
        dist.all_gather(rows, torch.tensor(ids))
        if rank == 0:
            answer.send(torch.cat(rows).tolist())
    dist.barrier()
    dist.destroy_process_group()


def test_two_real_processes_and_then_three(make_shards: Make, tmp_path: Path) -> None:
    folder = make_shards(count=30)
    unbroken = steps(settings_of(folder), 0, 5)
    found: list[list[int]] = []
    for world, start, count in ((2, 0, 3), (3, 3, 2)):
        receiver, sender = PROCESSES.Pipe(duplex=False)
        arguments = (world, start, count, str(tmp_path / f"meeting-{world}"), sender)
        ranks = [PROCESSES.Process(target=take_part, args=(str(folder), rank, *arguments)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        assert [process.exitcode for process in ranks] == [0] * world
        found += [receiver.recv() for _ in range(count)]
    assert found == unbroken


def test_batches_of_like_lengths_hold_the_pairs_of_the_group(make_shards: Make) -> None:
    folder = make_shards(
        count=60, change=lambda i, m: m | {"json": record(i, ["dog " * (1 + (i + k) % 9) for k in range(1 + i % 3)])}
    )
    plain, sorted_ = settings_of(folder), settings_of(folder, length_group=5)

    def spans(config: DataConfig) -> tuple[list[list[int]], float]:
        words = Tokenizer.from_folder(folder)
        batches = list(islice(TrainLoader(config, Mixture.from_config(config, words, 3), seed=3).batches(0), 10))
        padding = sum(1 - b.text_mask.float().mean().item() for b in batches)
        return [b.caption_id.tolist() for b in batches], padding

    (one, loose), (two, tight) = spans(plain), spans(sorted_)
    for group in (0, 5):
        flat = [sorted(c for batch in ids[group : group + 5] for c in batch) for ids in (one, two)]
        assert flat[0] == flat[1]
    assert one != two
    assert tight < loose
