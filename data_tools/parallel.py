"""Work by several processes: results in the order of the items, few of them held at a time, a progress bar."""

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

from vlp.data.errors import DataError

PRELOADED = ["vlp.data.images"]  # imported once, by the server that the processes are forked from


def in_order(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    workers: int,
    name: str,
    done: int = 0,
    chunk: int = 1,
    size: Callable[[Any], int] | None = None,
    unit: str = "img",
) -> Iterator[Any]:
    """`function` of every item from number `done` on, in order. `size` tells how far an item moves the progress bar."""
    from tqdm import tqdm

    weigh = size or (lambda item: 1)
    total = sum(weigh(item) for item in items) if size else len(items)
    begin = sum(weigh(item) for item in items[:done]) if size else done
    with tqdm(desc=name, total=total, initial=begin, unit=unit) as bar:
        rest = (items[i] for i in range(done, len(items)))
        results = map(function, rest) if workers <= 1 else _by_processes(function, rest, workers, chunk)
        for i, result in enumerate(results, done):
            yield result
            bar.update(weigh(items[i]))


def _by_processes(function: Callable[[Any], Any], items: Iterable[Any], workers: int, chunk: int) -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # The function travels once, not with every item: it may hold the index of a folder of thousands of shards.
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_remember, initargs=(function,))
    waiting: deque[Future[list[Any]]] = deque()
    try:
        source = iter(items)
        while some := list(islice(source, chunk)):
            waiting.append(pool.submit(_each, some))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError("a process was killed, most likely for memory; run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_function: list[Callable[[Any], Any]] = []  # of this process


def _remember(function: Callable[[Any], Any]) -> None:
    _function[:] = [function]


def _each(items: Iterable[Any]) -> list[Any]:
    return [_function[0](item) for item in items]


def resumed(
    function: Callable[[Any], Any], units: Sequence[Any], *, journal: Path, settings: dict[str, Any], **options: Any
) -> Iterator[Any]:
    """`in_order`, with the results (JSON) kept in a journal: a command that was interrupted goes on behind them.

    A journal of other settings is begun anew. Who has written the report removes the journal.
    """
    try:
        done = _read_journal(journal, settings)
    except OSError as error:
        raise DataError(f"{journal} cannot be written ({error.strerror}); say where the report goes") from error
    yield from done
    with open(journal, "a") as file:
        for result in in_order(function, units, done=len(done), **options):
            file.write(json.dumps(result) + "\n")
            file.flush()
            yield result


def _read_journal(path: Path, settings: dict[str, Any]) -> list[Any]:
    """Results of an earlier run with these settings; the journal then holds these alone, without a torn last line."""
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []  # what has no end was torn by a kill
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # somebody else's file
            break
    kept = found if found[:1] == [json.loads(json.dumps(settings))] else [settings]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
    return kept[1:]


def write_json(path: Path, record: Any) -> None:
    """Write beside, then rename."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
