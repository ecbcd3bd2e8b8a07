"""Peak memory and time of a rank's contrastive loss, forward and backward, against the global batch.

    python -m benchmarks.contrastive_memory --ranks 1 4 --global-batch 1024 4096 16384 --json FILE
    python -m benchmarks.contrastive_memory --encoders --global-batch 64 256 1024 --micro-batch 32

The first compares forms of the loss on given embeddings, each case in processes of its own. "whole" is the plain one:
each rank gathers all embeddings and scores every pair of the global batch. The second trains ViT-tiny and a text
transformer by ITC: one batch against micro batches with gradient caching.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from configs.systems import clip
from vlp.config import build, lazy
from vlp.data.mock import mock_batch
from vlp.engine.provenance import machine, timestamp
from vlp.gradient_cache import nothing_but
from vlp.layers.gather import gather
from vlp.model import VLModel
from vlp.objectives.itc import ITC
from vlp.objectives.sigmoid import SigmoidContrast
from vlp.similarity.cosine import CosineSimilarity
from vlp.task import Task
from vlp.text.clip import ClipText
from vlp.types import Batch, Loss
from vlp.view import View
from vlp.vision.vit import TimmViT

FORKS = multiprocessing.get_context("fork")
WORDS = 1000
Step = Callable[[], None]


class WholeMatrix(nn.Module):
    """ITC as each rank's matrix of all pairs of the global batch, one positive a row."""

    def forward(self, view: View) -> Loss:
        """Cross entropy of both directions."""
        scores = view.model.contrast.scale() * gather(view.image_embedding) @ gather(view.text_embedding).T
        own = torch.arange(len(scores), device=scores.device)
        return Loss((F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2)


def forms(chunk: int) -> dict[str, nn.Module]:
    """The forms that are compared."""
    return {
        "whole": WholeMatrix(),
        "local rows": ITC(),
        "local rows in chunks": ITC(chunk=chunk),
        "sigmoid": SigmoidContrast(),
        "sigmoid in chunks": SigmoidContrast(chunk=chunk),
        "sigmoid round the ring": SigmoidContrast(chunk=chunk, ring=True),
    }


def loss_step(form: str, args: argparse.Namespace, batch: int, rank: int, device: torch.device) -> Step:
    """Forward and backward of one form on `batch` embeddings of this rank."""
    similarity = CosineSimilarity(image_width=8, text_width=8, embed_dim=args.width)
    model = VLModel(vision=nn.Identity(), text=nn.Identity(), similarities={"itc": similarity}).to(device)
    objective = forms(args.chunk)[form].to(device)
    g = torch.Generator().manual_seed(rank)
    rows = [F.normalize(torch.randn(batch, args.width, generator=g), dim=1).to(device) for _ in range(2)]
    ids = torch.arange(rank * batch, (rank + 1) * batch, device=device)

    def step() -> None:
        view = View(model, nothing_but(ids))
        view.image_embedding, view.text_embedding = (t.detach().requires_grad_() for t in rows)
        objective(view).value.backward()

    return step


def encoder_step(form: str, args: argparse.Namespace, batch: int, rank: int, device: torch.device) -> Step:
    """Forward and backward of a dual encoder over `batch` pairs: whole, or in micro batches with a gradient cache."""
    torch.manual_seed(0)
    text = lazy(ClipText)(vocab_size=WORDS, width=192, layers=4, heads=3, max_positions=77)
    model, objectives = clip.parts(lazy(TimmViT)(name="vit_tiny_patch16_224", image_size=224), text, 192, 192, 256)
    objectives["itc"].kwargs["chunk"] = args.chunk
    task: Task = build(lazy(Task)(model=model, objectives=objectives)).to(device)

    def read(i: int, size: int) -> Batch:
        return mock_batch(size, 224, 77, WORDS, seed=i).to(device)

    def whole() -> None:
        task(read(0, batch)).value.backward()

    def cached() -> None:
        count = max(batch // args.micro_batch, 1)
        with torch.no_grad():
            caches = task.contrast([task.embed(read(i, batch // count)) for i in range(count)])
        for i, cache in enumerate(caches):
            (task(read(i, batch // count), cache).value / count).backward()

    return whole if form == "one batch" else cached


def work(rank: int, world: int, port: int, form: str, batch: int, args: argparse.Namespace, out: str) -> None:
    """One rank of one case: peak bytes above what was there before, and seconds of the median step."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo", rank=rank, world_size=world)
    step = (encoder_step if args.encoders else loss_step)(form, args, batch // world, rank, device)
    mapped_from(1 << 16)  # in the step that measures memory, what is freed leaves the process at once
    before = forget_peak(device)
    step()
    above = peak(device) - before
    mapped_from(1 << 25)  # in the others it is kept, as in a training
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    found = torch.tensor([float(above), median(seconds)], dtype=torch.float64, device=device)
    if world > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
        dist.destroy_process_group()
    if rank == 0:
        Path(out).write_text(json.dumps(found.tolist()))


def mapped_from(size: int) -> None:
    """Let glibc map blocks of so many bytes one by one, outside its heap."""
    ctypes.CDLL(None).mallopt(-3, size)  # M_MMAP_THRESHOLD


def forget_peak(device: torch.device) -> int:
    """Bytes in use now; the peak counts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of this process's memory becomes what it is now
    return peak(device)


def peak(device: torch.device) -> int:
    """Most bytes in use since `forget_peak`: the GPU's allocations, or the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measure(form: str, world: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """One case, each rank a process of its own; a case that fails (memory) has no figures."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, out = probe.getsockname()[1], Path(folder) / "case.json"
        probe.close()
        ranks = [FORKS.Process(target=work, args=(r, world, port, form, batch, args, str(out))) for r in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        memory, seconds = json.loads(out.read_text()) if out.is_file() else (None, None)
    return {"form": form, "ranks": world, "global_batch": batch, "peak_bytes": memory, "seconds": seconds}


def skipped(form: str, batch: int, args: argparse.Namespace) -> bool:
    """The whole matrix of a batch above `--most-whole`: it would take the machine's memory and an age."""
    return form in ("whole", "sigmoid", "one batch") and batch > args.most_whole


def main() -> None:
    """Measure every case, print a table as it grows, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="processes that share the batch (default 1)")
    parser.add_argument("--global-batch", type=int, nargs="+", default=[1024, 4096, 16384], help="pairs of a step")
    parser.add_argument("--width", type=int, default=256, help="width of an embedding (default 256)")
    parser.add_argument("--chunk", type=int, default=256, help="rows or texts compared at a time (default 256)")
    parser.add_argument("--most-whole", type=int, default=8192, help="largest batch of the plain forms (default 8192)")
    parser.add_argument("--encoders", action="store_true", help="gradient caching of a dual encoder instead")
    parser.add_argument("--micro-batch", type=int, default=32, help="with --encoders, pairs at a time (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="steps that count, after one that does not (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process (default 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    names = ["one batch", "gradient cache"] if args.encoders else list(forms(1))
    cases = [(n, w, b) for w in args.ranks for b in args.global_batch for n in names if not skipped(n, b, args)]
    print(f"{'form':24}{'ranks':>6}{'global batch':>14}{'peak MB':>10}{'seconds':>10}")
    rows = []
    for form, world, batch in cases:
        rows.append(row := measure(form, world, batch, args))
        told = "   failed" if row["seconds"] is None else f"{row['peak_bytes'] / 1e6:10.1f}{row['seconds']:10.3f}"
        print(f"{form:24}{world:6}{batch:14}{told}", flush=True)
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        figures = {"time": timestamp(), "machine": machine(), "settings": settings, "rows": rows}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
