"""Scores of every pair by stacked cross attention: tiles with a Gram matrix against a loop over the captions.

    python -m benchmarks.pairwise --json benchmarks/results/pairwise.json

The loop is how such scorers are mostly written: for one caption after another its words are repeated for all pictures
and the context of each word is built. Tiles make all cosines in one product and take the captions of one length
together. Both are shown to give equal scores (1e-6) and then timed in turn; the median ratio is the figure, on a busy
machine that of processor time, for a loop of small products suffers more by its company. A second table sets the
ranking loss in two passes against gradients for every pair: seconds of a step, and the memory that one holds, counted
on the saved tensors of the graph.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.objectives.ranking import violations
from vlp.similarity.stacked_attention import Direction, StackedAttention
from vlp.similarity.token_pairs import TokenSimilarity, aligned
from vlp.types import Stream


def looped(image: Stream, text: Stream, direction: Direction, sharpness: float) -> Tensor:
    """(B, C) scores, caption by caption, by the papers' formula with contexts."""
    columns = []
    for tokens, mask in zip(text.tokens, text.mask, strict=True):
        words = tokens[mask][None].expand(len(image.tokens), -1, -1)  # (B, L, E)
        regions = image.tokens
        query, source = (words, regions) if direction == "text" else (regions, words)
        seen = F.leaky_relu(source @ query.transpose(1, 2), 0.1)  # (B, S, Q)
        seen = seen / (seen.norm(dim=2, keepdim=True) + 1e-8)
        shares = F.softmax(sharpness * seen.transpose(1, 2), dim=2)
        context = shares @ source
        columns.append(F.cosine_similarity(query, context, dim=2).mean(1))
    return torch.stack(columns, 1)


def streams(count: int, regions: int, words: int, width: int, seed: int = 0) -> tuple[Stream, Stream]:
    """Unit tokens: full pictures, captions of a half to the whole of `words`."""
    g = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(count, regions, width, generator=g), dim=2)
    text = F.normalize(torch.randn(count, words, width, generator=g), dim=2)
    lengths = torch.randint(words // 2, words + 1, (count, 1), generator=g)
    return Stream(image, torch.ones(count, regions) > 0), Stream(text, torch.arange(words)[None] < lengths)


def similarity(direction: Direction, limit: int = 1 << 26) -> TokenSimilarity:
    """The scorer alone, without heads."""
    scorer = StackedAttention(direction=direction)
    return TokenSimilarity(image=nn.Identity(), text=nn.Identity(), scorer=scorer, limit=limit)


def timed(sides: dict[str, Callable[[], Any]], runs: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each side by the clock, and of the processor, run in turn; the first round does not count."""
    clock: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, side in sides.items():
            started, used = time.perf_counter(), time.process_time()
            side()
            clock[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
    return {name: values[1:] for name, values in clock.items()}, {name: v[1:] for name, v in processor.items()}


def ratios(seconds: dict[str, list[float]], one: str, two: str) -> list[float]:
    """How many times as long one side took as the other, round by round."""
    return [a / b for a, b in zip(seconds[one], seconds[two], strict=True)]


def scoring(direction: Direction, args: argparse.Namespace) -> dict[str, float]:
    """Loop and tiles compared and timed. Raises SystemExit where scores differ by more than 1e-6."""
    image, text = streams(args.pairs, args.regions, args.words, args.width)
    tiled = similarity(direction)
    with torch.inference_mode():
        apart = float((looped(image, text, direction, 9.0) - tiled.scores(image, text)).abs().max())
        if apart > 1e-6:
            raise SystemExit(f"{direction}: scores of loop and tiles differ by {apart:.1e}")
        seconds, processor = timed(
            {"loop": lambda: looped(image, text, direction, 9.0), "tiles": lambda: tiled.scores(image, text)}, args.runs
        )
    found = ratios(seconds, "loop", "tiles")
    return {
        "largest difference": apart,
        "loop pairs/s": args.pairs**2 / statistics.median(seconds["loop"]),
        "tiles pairs/s": args.pairs**2 / statistics.median(seconds["tiles"]),
        "ratio": statistics.median(found),
        "ratio min": min(found),
        "ratio max": max(found),
        "ratio of processor time": statistics.median(ratios(processor, "loop", "tiles")),
    }


def bounded(args: argparse.Namespace) -> dict[str, float]:
    """Numbers that the tiles of patches (R = 576) hold at their peak, by the similarity's own account."""
    regions, words, count = 576, 32, args.pairs
    tiled = similarity("text")
    rows, columns = tiled._tile_shape(*streams(count, regions, words, 8))
    numbers = tiled.pair_numbers(regions, words)
    return {
        "megabytes of a tile": 4e-6 * rows * columns * numbers,
        "bound": 4e-6 * tiled.limit,
        "megabytes of all pairs at once": 4e-6 * count**2 * numbers,
    }


def loss_of(image: Stream, text: Stream, two_pass: bool, scorer: TokenSimilarity) -> Tensor:
    """Hardest-rival hinges of aligned pairs, by one pass with gradient over every pair or by two."""
    rival = ~torch.eye(len(image.mask), dtype=torch.bool)
    if not two_pass:
        scores = scorer.token_scores(image, text)
        own = scores.diagonal()
        return (violations(scores, own, rival, 0.2) + violations(scores.T, own, rival, 0.2)).mean()
    with torch.no_grad():
        scores = scorer.token_scores(image, text).masked_fill(~rival, float("-inf"))
        one, two = scores.argmax(1), scores.argmax(0)
    own = aligned(scorer, image, text)
    with_text = aligned(scorer, image, Stream(text.tokens[one], text.mask[one]))
    with_image = aligned(scorer, Stream(image.tokens[two], image.mask[two]), text)
    return ((0.2 + with_text - own).clamp(min=0) + (0.2 + with_image - own).clamp(min=0)).mean()


def passes(args: argparse.Namespace) -> dict[str, float]:
    """Both forms of the loss: equal gradients, seconds of forward and backward, megabytes kept for the backward."""
    image, text = streams(args.pairs, args.regions, args.words, args.width)
    for stream in (image, text):
        stream.tokens.requires_grad_()
    scorer, figures, gradients = similarity("text", limit=1 << 40), {}, []
    for name, two_pass in (("every pair", False), ("two passes", True)):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = loss_of(image, text, two_pass, scorer)
        gradients.append(torch.autograd.grad(loss, [image.tokens, text.tokens]))
        figures[f"{name} megabytes"] = 1e-6 * sum(kept.values())
    apart = max(float((a - b).norm() / a.norm()) for a, b in zip(*gradients, strict=True))
    if apart > 1e-4:
        raise SystemExit(f"gradients of one and two passes differ by {apart:.1e}")

    def step(two_pass: bool) -> None:
        torch.autograd.grad(loss_of(image, text, two_pass, scorer), [image.tokens, text.tokens])

    seconds, processor = timed({"every pair": lambda: step(False), "two passes": lambda: step(True)}, args.runs)
    return figures | {
        "largest gradient difference": apart,
        "every pair seconds": statistics.median(seconds["every pair"]),
        "two passes seconds": statistics.median(seconds["two passes"]),
        "ratio": statistics.median(ratios(seconds, "every pair", "two passes")),
        "ratio of processor time": statistics.median(ratios(processor, "every pair", "two passes")),
    }


def main() -> None:
    """Compare, measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="pictures, and as many captions (default 64)")
    parser.add_argument("--regions", type=int, default=36, help="regions a picture (default 36)")
    parser.add_argument("--words", type=int, default=20, help="words of the longest caption (default 20)")
    parser.add_argument("--width", type=int, default=1024, help="numbers of a token (default 1024)")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "words ask": scoring("text", args),
        "regions ask": scoring("image", args),
        "576 patches": bounded(args),
        "ranking": passes(args),
    }
    for part in ("words ask", "regions ask", "576 patches", "ranking"):
        print(part)
        print("".join(f"    {name:<32}{value:>12.4g}\n" for name, value in figures[part].items()), end="")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
