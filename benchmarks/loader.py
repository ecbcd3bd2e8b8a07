"""The training loader against the bare decoder and against plain WebDataset with Pillow; its start-up and memory.

    python -m benchmarks.loader --json benchmarks/results/loader.json

Rates are pictures a second of CPU time of one thread, measured in turn so that other work on the machine hits all
alike: (1) decode and random 224 crop, nothing else, by every decoder that is installed; (2) the whole loader in one
process: read, decode, augment, tokenize, collate; (3) the same in a reading process, hand-over included; (4) plain
WebDataset with Pillow. Start-up and resume are those of a set of 10,000 shards of 10,000 pictures each, whose shards
are links to one. Two sizes are given for them: resident memory, most of which is the code of torch's libraries, mapped
from their files, shared by all processes and dropped by the kernel at need; and private memory (RssAnon of
/proc/self/status), which is the process's own, after its imports and at the end. Memory over 100,000 samples of the
set is resident memory.
"""

import argparse
import io
import itertools
import json
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.pictures import WebDatasetBatches, crop, decoders
from vlp.data.config import DataConfig
from vlp.data.loader import TrainLoader
from vlp.data.mixture import Mixture
from vlp.data.shards import ShardWriter
from vlp.data.tokenizer import SPECIALS, Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIMULATED = (10_000, 10_000)  # shards, pictures in each


def photo(random: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG about as large as a photograph of that size is."""
    smooth = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(smooth) + random.normal(0, 6, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_set(folder: Path, pictures: list[bytes], count: int, per_shard: int) -> Path:
    """Shards of `count` pictures, drawn from these, with a caption of 8 to 16 words each, and a vocabulary."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list(LETTERS), 5)) for _ in range(5000)]
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        for i in range(count):
            caption = {"id": i, "text": " ".join(random.choice(words, random.integers(8, 17)))}
            record = {"image_id": i, "filename": f"{i}.jpg", "captions": [caption]}
            writer.add(f"{i:08d}", {"jpg": pictures[i % len(pictures)], "json": json.dumps(record).encode()})
    pieces = [*SPECIALS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *sorted(set(words))]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    return folder


def write_simulated(folder: Path) -> Path:
    """One shard under 10,000 names: an index, tables and bytes as large as a real set's, on little disk."""
    shards, per_shard = SIMULATED
    pictures = [photo(np.random.default_rng(i), 64, 48) for i in range(100)]
    write_set(folder, pictures, per_shard, per_shard)
    index = json.loads((folder / "index.json").read_text())
    for number in range(1, shards):
        for ending in ("tar", "index.npy"):
            os.link(folder / f"shard-000000.{ending}", folder / f"shard-{number:06d}.{ending}")
    first = index["shards"][0]
    index["shards"] = [first | {"file": f"shard-{number:06d}.tar"} for number in range(shards)]
    index["samples"] = index["captions"] = shards * per_shard
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def open_loader(config: DataConfig) -> TrainLoader:
    """The loader of one rank."""
    return TrainLoader(config, Mixture.from_config(config, Tokenizer.from_folder(config.folders[0])))


class ReadingProcess:
    """The loader in one reading process, whose own CPU time is what counts, hand-over included."""

    def __init__(self, config: DataConfig) -> None:
        self.batches = open_loader(replace(config, workers=1)).batches(0)
        next(self.batches)

    def seconds(self, count: int) -> float:
        """CPU time of making `count` batches."""
        start = self._idle()
        for _ in range(count):
            next(self.batches)
        return self._idle() - start

    def _idle(self) -> float:
        """Its CPU time so far, all threads, when it has filled its queue and waits."""
        before, now = -1.0, self._spent()
        while now > before:
            time.sleep(0.3)
            before, now = now, self._spent()
        return now

    def _spent(self) -> float:
        (process,) = multiprocessing.active_children()
        threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def rates(folder: Path, pictures: list[bytes], args: argparse.Namespace) -> dict[str, list[float]]:
    """Pictures a second of CPU time, one figure a round, of everything that is compared."""
    config = DataConfig(train=str(folder), batch_size=args.batch, crop_scale=(0.5, 1.0), flip=True)
    sides: dict[str, Callable[[], Any]] = {}
    for name, decode in decoders().items():
        random, following = np.random.default_rng(0), itertools.cycle(pictures)
        sides[f"bare {name}"] = lambda d=decode, r=random, f=following: [
            crop(d, next(f), config, r) for _ in range(args.batch)
        ]
    whole = open_loader(config).batches(0)
    plain = WebDatasetBatches(folder, config, Tokenizer.from_folder(folder)).batches()
    sides |= {"loader": lambda: next(whole), "WebDataset + Pillow": lambda: next(plain)}
    process = ReadingProcess(config)
    found: dict[str, list[float]] = {name: [] for name in (*sides, "loader, reading process")}
    for turn in range(args.warmup + args.rounds):
        seconds = {name: cpu_seconds(side) for name, side in sides.items()}
        seconds["loader, reading process"] = process.seconds(1)
        if turn >= args.warmup:
            for name, spent in seconds.items():
                found[name].append(args.batch / spent)
    return found


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time that this process spends on it."""
    start = time.process_time()
    work()
    return time.process_time() - start


def memory(name: str = "VmRSS") -> float:
    """MiB of this process: all that is resident (VmRSS), the most that was (VmHWM), its private share (RssAnon)."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def start_up(folder: str, sample: int, answer: Any) -> None:
    """In a process of its own: seconds and memory from nothing to the batch that holds `sample`."""
    torch.set_num_threads(1)
    config = DataConfig(train=folder, image_size=64, batch_size=64)
    before, private = memory(), memory("RssAnon")
    start, cpu = time.perf_counter(), time.process_time()
    next(open_loader(config).batches(sample // config.batch_size))
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    sizes = {"imports_mib": before, "peak_mib": memory("VmHWM")}
    answer.send(spent | sizes | {"private_imports_mib": private, "private_mib": memory("RssAnon")})


def long_read(folder: str, samples: int, answer: Any) -> None:
    """In a process of its own: memory after each tenth of so many samples."""
    torch.set_num_threads(1)
    config = DataConfig(train=folder, image_size=48, batch_size=100, crop_scale=(0.5, 1.0), flip=True)
    batches = open_loader(config).batches(0)
    found = []
    for _ in range(10):
        for _ in islice(batches, samples // (10 * config.batch_size)):
            pass
        found.append(memory())
    answer.send(found)


def apart(work: Callable[..., None], *arguments: Any) -> Any:
    """What `work` answers from a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, sender))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def read_pictures(folder: Path | None, count: int) -> list[bytes]:
    """JPEGs of a folder, or made ones of 500 x 375 pixels."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:count]]
    return [photo(np.random.default_rng(i), 500, 375) for i in range(count)]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of JPEGs (default: made ones, 500 x 375)")
    parser.add_argument("--batch", type=int, default=64, help="pictures a batch (default 64)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds that count (default 12)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds that do not (default 2)")
    parser.add_argument("--samples", type=int, default=100_000, help="samples of the memory test (default 100,000)")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "note": args.note,
        "settings": {k: v for k, v in vars(args).items() if k not in ("json", "pictures", "note")},
    }
    with tempfile.TemporaryDirectory() as place:
        pictures = read_pictures(args.pictures, 400)
        figures["mean_kilobytes"] = statistics.mean(map(len, pictures)) / 1000
        rounds = rates(write_set(Path(place) / "set", pictures, len(pictures), 100), pictures, args)
        figures["pictures_per_cpu_second"] = {name: statistics.median(r) for name, r in rounds.items()}
        simulated = str(write_simulated(Path(place) / "simulated"))
        figures["start"] = apart(start_up, simulated, 0)
        figures["resume_at_10_million"] = apart(start_up, simulated, 10_000_000)
        figures["mib_after_each_tenth"] = apart(long_read, simulated, args.samples)
    report(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def report(figures: dict[str, Any]) -> None:
    """Print the tables."""
    per_second = figures["pictures_per_cpu_second"]
    fastest = max(rate for name, rate in per_second.items() if name.startswith("bare"))
    plain = per_second["WebDataset + Pillow"]
    print(f"{'':26}{'pictures/s':>12}{'of fastest':>12}{'x WebDataset':>14}")
    for name, rate in per_second.items():
        print(f"{name:26}{rate:12.0f}{rate / fastest:12.0%}{rate / plain:14.2f}")
    for name in ("start", "resume_at_10_million"):
        f = figures[name]
        grown = f["peak_mib"] - f["imports_mib"]
        seconds = f"{f['seconds']:.2f} s ({f['cpu_seconds']:.2f} s of CPU)"
        print(f"{name}: {seconds}, {f['peak_mib']:.0f} MiB resident at most, of which {grown:.0f} beyond the imports;")
        own = f"{f['private_imports_mib']:.0f} MiB after the imports, {f['private_mib']:.0f} at the end"
        print(f"{'':8}private (RssAnon): {own}")
    print("MiB after each tenth:", " ".join(f"{m:.0f}" for m in figures["mib_after_each_tenth"]))


if __name__ == "__main__":
    main()
