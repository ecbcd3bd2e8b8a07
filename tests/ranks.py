"""Runs of several processes: forked from a server that has imported everything once, joined by gloo over a file."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.small_run"])


def _enter(rank: int, world: int, port: int, out: str, work: Callable[..., None], arguments: Sequence[Any]) -> None:
    quiet = os.open(f"{out}.rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.setsid()
    torch.set_num_threads(1)
    multiprocessing.set_forkserver_preload(["vlp.data.loader"])  # of the reading processes
    if world > 1:  # what `torchrun` and `accelerate launch` set
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
    work(*arguments)


def free_port() -> int:
    """A port that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(world: int, out: Path, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """Start `work(*arguments)` on `world` ranks; what rank r prints goes to `{out}.rank{r}.txt`."""
    port = free_port()
    ranks = [
        PROCESSES.Process(target=_enter, args=(rank, world, port, str(out), work, arguments)) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def finish(ranks: Sequence[Any], out: Path, code: int | None = 0, seconds: float = 240) -> list[int]:
    """Wait for all ranks; their exit codes, which must all be `code` unless that is None."""
    end = time.monotonic() + seconds
    for process in ranks:
        process.join(max(end - time.monotonic(), 0.1))
    codes = [process.exitcode for process in ranks]
    told = "\n".join(Path(f"{out}.rank{rank}.txt").read_text()[-2500:] for rank in range(len(ranks)))
    for process in ranks:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    assert None not in codes, f"still running after {seconds} s: {codes}\n{told}"
    assert code is None or codes == [code] * len(ranks), f"{codes}\n{told}"
    return codes
