"""What a set is made of: captions, words, languages, resolutions; as figures, and as a page to look at.

    vlp data stats shards/cc3m
    vlp data stats shards/cc3m --page cc3m.html --limit 100000

Writes FOLDER/stats.json and a page of one file (FOLDER/stats.html): plots, the commonest words, and some pictures
with their captions, drawn evenly from the whole set. Lengths are in words as they stand between spaces. Languages are
guessed from script and small words. Bad samples are counted and passed over; `vlp data check` names them. An
interrupted command goes on where it stopped.
"""

import argparse
import io
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.parallel import resumed, write_json, write_text

ROWS, SHOWN = 500, 24
COUNTED = ("lengths", "words", "languages", "captions_per_picture", "sizes", "kinds", "kilobytes", "bad", "repeated")
RARE = 5  # words seen fewer times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data stats`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of indexed shards")
    parser.add_argument("--report", type=Path, help="JSON to write (default: FOLDER/stats.json)")
    parser.add_argument("--page", type=Path, help="page to write (default: FOLDER/stats.html)")
    parser.add_argument("--limit", type=int, help="only the first N samples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def main(args: argparse.Namespace) -> int:
    """Count, write the figures and the page, print a summary."""
    from data_tools.check import chunks
    from data_tools.stats_page import page
    from vlp.data.shards import ShardFolder

    source = ShardFolder(args.folder)
    report_path = args.report or args.folder / "stats.json"
    journal = report_path.with_name(f"{report_path.name}.journal")
    settings = {"shards": [shard["sha256"] for shard in source.shards], "limit": args.limit}
    options: dict[str, Any] = {"workers": args.workers, "name": "stats", "size": lambda unit: unit[2] - unit[1]}
    totals: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    units = chunks(source, args.limit, ROWS)
    for told in resumed(partial(count_chunk, source), units, journal=journal, settings=settings, **options):
        for name, counts in told.items():
            totals[name].update(counts)
    report = figures(str(args.folder), totals)
    write_json(report_path, report)
    page_path = args.page or args.folder / "stats.html"
    looked = sum(end - begin for _, begin, end in units)
    count = min(SHOWN, looked)
    write_text(page_path, page(source, report, [looked * i // count for i in range(count)]))
    journal.unlink()
    for name, value in summary(report):
        print(f"{name:28} {value}")
    print(f"figures in {report_path}, page in {page_path}")
    return 0


def count_chunk(source: Any, unit: tuple[int, int, int]) -> dict[str, Counter[str]]:
    """Counts of some rows of a shard."""
    from vlp.data.errors import BadSampleError

    shard, begin, end = unit
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    for row in range(begin, end):
        try:
            texts = [caption["text"] for caption in json.loads(source.read(shard, row, "json") or b"")["captions"]]
            count_picture(source, shard, row, counts)
            count_texts(texts, counts)
        except BadSampleError as error:
            counts["bad"][error.cause] += 1
        except (ValueError, KeyError, TypeError):
            counts["bad"]["unreadable record"] += 1
    return counts


def count_picture(source: Any, shard: int, row: int, counts: dict[str, Counter[str]]) -> None:
    """Size, kind and bytes of the row's picture, from its header. Raises BadSampleError where it has none."""
    from PIL import Image

    from vlp.data.errors import BadSampleError
    from vlp.data.shards import PICTURES

    kind = next((kind for kind in PICTURES if source.has(shard, row, kind)), None)
    if kind is None:
        counts["kinds"]["no picture, features alone"] += 1
        return
    data = source.read(shard, row, kind)
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except (OSError, Image.DecompressionBombError) as error:
        raise BadSampleError("undecodable picture", source.name(shard, row), str(error)) from error
    counts["sizes"][f"{width}x{height}"] += 1
    counts["kinds"][kind] += 1
    counts["kilobytes"][str(len(data) // 1000)] += 1


def count_texts(texts: list[str], counts: dict[str, Counter[str]]) -> None:
    """Lengths, words and languages of a picture's captions."""
    from data_tools.language import language_of

    counts["captions_per_picture"][str(len(texts))] += 1
    counts["repeated"]["in its picture"] += len(texts) - len(set(texts))
    for text in texts:
        words = text.lower().split()
        counts["lengths"][str(len(words))] += 1
        counts["words"].update(word for raw in words if (word := raw.strip(".,;:!?\"'()[]")))
        counts["languages"][language_of(text)] += 1


# ---------------------------------------------------------------- figures


def figures(folder: str, totals: dict[str, Counter[str]]) -> dict[str, Any]:
    """The report."""
    sizes = Counter[str]()
    ratios = Counter[str]()
    for size, count in totals["sizes"].items():
        width, height = map(int, size.split("x"))
        sizes[str(min(width, height))] += count
        ratios[f"{width / height:.1f}"] += count
    words = totals["words"]
    return {
        "folder": folder,
        "pictures": sum(totals["captions_per_picture"].values()),
        "captions": sum(totals["lengths"].values()),
        "bad": dict(totals["bad"]),
        "captions_per_picture": numeric(totals["captions_per_picture"]),
        "captions_repeated_in_a_picture": totals["repeated"]["in its picture"],
        "words": words.total(),
        "vocabulary": len(words),
        "rare_words": sum(count < RARE for count in words.values()),
        "commonest_words": dict(words.most_common(200)),
        "caption_lengths": numeric(totals["lengths"]),
        "languages": dict(totals["languages"].most_common()),
        "kinds": dict(totals["kinds"].most_common()),
        "sizes": dict(totals["sizes"].most_common(50)),
        "distinct_sizes": len(totals["sizes"]),
        "shorter_sides": numeric(sizes),
        "width_over_height": dict(sorted(ratios.items(), key=lambda entry: float(entry[0]))),
        "kilobytes": numeric(totals["kilobytes"]),
    }


def numeric(counts: Counter[str]) -> dict[str, int]:
    """Counts by number, in order."""
    return {str(value): counts[str(value)] for value in sorted(map(int, counts))}


def quantile(counts: dict[str, int], share: float) -> int:
    """The value below or at which this share of all lies; 0 where there are none."""
    total, seen = sum(counts.values()), 0
    for value, count in counts.items():
        seen += count
        if seen >= share * total:
            return int(value)
    return 0


def summary(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and figures for the screen and the head of the page."""

    def spread(counts: dict[str, int]) -> str:
        return " / ".join(str(quantile(counts, share)) for share in (0.05, 0.5, 0.95))

    languages = ", ".join(f"{name} {count:,}" for name, count in list(report["languages"].items())[:4])
    return [
        ("pictures", f"{report['pictures']:,}"),
        ("captions", f"{report['captions']:,}"),
        ("bad samples passed over", f"{sum(report['bad'].values()):,}"),
        ("words a caption, 5/50/95 %", spread(report["caption_lengths"])),
        ("vocabulary", f"{report['vocabulary']:,} ({report['rare_words']:,} seen under {RARE} times)"),
        ("languages, guessed", languages),
        ("shorter side, 5/50/95 %", spread(report["shorter_sides"])),
        ("distinct picture sizes", f"{report['distinct_sizes']:,}"),
        ("kB a picture, 5/50/95 %", spread(report["kilobytes"])),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
