"""Which pictures of a training set are in an evaluation set too, also as copies of other size, format or quality?

    vlp data overlap shards/laion shards/coco/test shards/flickr/test
    vlp data pack shards/laion shards/laion-clean --drop shards/laion/overlap.json
    vlp data overlap shards/laion shards/laion           # near-duplicates within a set

Each picture gets a perceptual hash of 256 bits; two are one picture where at most --distance of them differ (0 to
256). Pictures that are mirrored or cropped by more than a few per cent are not found, and pictures of nearly one grey
cannot be told apart and are counted. The evaluation sets are indexed and the training set goes past, so the time
grows with their sum, not with their product. TRAIN/overlap.json names every pair, and lists the training pictures as
faults for `vlp data pack --drop`; a page (TRAIN/overlap.html) shows pairs side by side, to judge by eye. Exit code 1
means that something was found. An interrupted command goes on where it stopped.
"""

import argparse
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.parallel import resumed, write_json, write_text

ROWS, PIECE, SHOWN, PRINTED = 500, 200_000, 60, 20
FINDING = 11  # bits of the first 64 in which two may differ to be looked at
DISTANCE = 64  # of 256; see docs/decisions.md
Pair = tuple[int, int, int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data overlap`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("train", type=Path, help="folder of indexed shards that must not hold the others' pictures")
    parser.add_argument("evaluation", type=Path, nargs="+", help="folders of indexed shards to evaluate on")
    parser.add_argument("--distance", type=int, default=DISTANCE, help="bits that may differ (default: %(default)s)")
    parser.add_argument("--report", type=Path, help="JSON to write (default: TRAIN/overlap.json)")
    parser.add_argument("--page", type=Path, help="page to write (default: TRAIN/overlap.html)")
    parser.add_argument("--limit", type=int, help="only the first N samples of the training set")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def main(args: argparse.Namespace) -> int:
    """Hash, compare, report; 1 where something was found."""
    from vlp.data.shards import ShardFolder

    path = args.report or args.train / "overlap.json"
    train, sets = ShardFolder(args.train), [ShardFolder(folder) for folder in args.evaluation]
    journals = [path.with_name(f"{path.name}.{i}.journal") for i in range(len(sets) + 1)]
    hashed = [hash_all(s, None, args.workers, j) for s, j in zip(sets, journals[1:], strict=True)]
    mine = hash_all(train, args.limit, args.workers, journals[0])
    report = report_of(train, sets, mine, hashed, find(train, sets, mine, hashed, args.distance), args)
    write_json(path, report)
    write_text(args.page or args.train / "overlap.html", page(train, sets, report))
    for journal in journals:
        journal.unlink()
    show(report, path)
    return 1 if report["faults"] else 0


@dataclass
class Hashes:
    """Of a set: the samples that have a hash, their hashes (N, 4), and how many have none."""

    numbers: Any
    words: Any
    grey: int  # pictures of one grey
    bad: int  # undecodable


def hash_all(source: Any, limit: int | None, workers: int, journal: Path) -> Hashes:
    """A hash for every sample that can have one."""
    import numpy as np

    from data_tools.check import chunks
    from data_tools.fingerprint import from_texts

    settings = {"shards": [shard["sha256"] for shard in source.shards], "limit": limit}
    options: dict[str, Any] = {"workers": workers, "name": source.folder.name, "size": lambda unit: unit[2] - unit[1]}
    units = chunks(source, limit, ROWS)
    numbers, words, seen, grey, bad = [], [from_texts([])], 0, 0, 0
    for texts in resumed(partial(hash_chunk, source), units, journal=journal, settings=settings, **options):
        numbers += [np.array([seen + i for i, text in enumerate(texts) if len(text) > 1], dtype=np.int64)]
        words.append(from_texts([text for text in texts if len(text) > 1]))
        seen, grey, bad = seen + len(texts), grey + texts.count(""), bad + texts.count("-")
    return Hashes(np.concatenate([np.empty(0, np.int64), *numbers]), np.concatenate(words), grey, bad)


def hash_chunk(source: Any, unit: tuple[int, int, int]) -> list[str]:
    """Hashes of some rows of a shard, as text: empty for a picture of one grey, "-" where none can be had."""
    from data_tools.fingerprint import as_text, fingerprint
    from vlp.data.shards import PICTURES

    shard, begin, end = unit
    found = []
    for row in range(begin, end):
        try:
            data = next(data for kind in PICTURES if (data := source.read(shard, row, kind)) is not None)
            found.append(as_text(fingerprint(data)))
        except (ValueError, StopIteration):
            found.append("-")
    return found


def find(train: Any, sets: list[Any], mine: Hashes, hashed: list[Hashes], distance: int) -> list[Pair]:
    """(training sample, set, its sample, distance) of every pair. Within one set the earlier sample is the other."""
    import numpy as np

    from data_tools.neighbours import Neighbours

    found: list[Pair] = []
    for which, (source, theirs) in enumerate(zip(sets, hashed, strict=True)):
        index = Neighbours(theirs.words[:, 0].copy())
        for begin in range(0, len(mine.words), PIECE):
            left, right = index.within(mine.words[begin : begin + PIECE, 0], FINDING)
            left += begin
            apart = np.bitwise_count(mine.words[left] ^ theirs.words[right]).sum(1)
            near = apart <= distance
            here, there = mine.numbers[left], theirs.numbers[right]
            if source.folder.resolve() == train.folder.resolve():
                near &= there < here
            pairs = zip(here[near].tolist(), there[near].tolist(), apart[near].tolist(), strict=True)
            found += [(sample, which, other, int(bits)) for sample, other, bits in pairs]
    return sorted(found)


def report_of(
    train: Any,
    sets: list[Any],
    mine: Hashes,
    hashed: list[Hashes],
    pairs: list[Pair],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What was compared and what was found."""
    from data_tools.check import place_of

    told, faults = [], {}
    for number, which, other, bits in pairs:
        here, there = place_of(train, *train.locate(number)), place_of(sets[which], *sets[which].locate(other))
        told.append({"train": here, "evaluation": there, "set": which, "distance": bits})
        detail = f"{sets[which].name(*sets[which].locate(other))}, {bits} bits apart"
        faults.setdefault(number, here | {"cause": "picture of another set", "detail": detail})
    return {
        "train": str(args.train),
        "evaluation": [str(folder) for folder in args.evaluation],
        "distance": args.distance,
        "compared": [len(hashes.words) for hashes in (mine, *hashed)],
        "of_one_grey": [hashes.grey for hashes in (mine, *hashed)],
        "undecodable": [hashes.bad for hashes in (mine, *hashed)],
        "evaluation_pictures_found": [
            len({other for _, which, other, _ in pairs if which == i}) for i in range(len(sets))
        ],
        "pairs": told,
        "faults": list(faults.values()),
    }


def page(train: Any, sets: list[Any], report: dict[str, Any]) -> str:
    """Pairs side by side, the least alike first: those are to be judged."""
    from data_tools import page as html
    from vlp.data.shards import PICTURES

    entries = []
    for pair in sorted(report["pairs"], key=lambda pair: -pair["distance"])[:SHOWN]:
        pictures = []
        for source, place in ((train, pair["train"]), (sets[pair["set"]], pair["evaluation"])):
            where = (place["shard"], place["row"])
            pictures.append(html.picture(next(d for k in PICTURES if (d := source.read(*where, k)) is not None)))
        keys = f"{pair['train']['key']} and {pair['evaluation']['key']}"
        entries.append((pictures, [f"{pair['distance']} bits apart", keys]))
    title = f"{len(report['faults'])} pictures of {report['train']} are also in {', '.join(report['evaluation'])}"
    note = (
        f"At most {report['distance']} of 256 bits apart. The {len(entries)} pairs that are least alike, those first."
    )
    return html.document(title, note, [html.gallery(entries)])


def show(report: dict[str, Any], path: Path) -> None:
    """The summary, and the first pairs."""
    train, *others = report["compared"]
    print(f"{train} pictures compared with {' + '.join(map(str, others))}")
    grey, bad = sum(report["of_one_grey"]), sum(report["undecodable"])
    if grey or bad:
        print(f"not compared: {grey} of one grey, {bad} that cannot be decoded")
    for fault in report["faults"][:PRINTED]:
        print(f"  {fault['file']}: {fault['key']} is {fault['detail']}")
    if len(report["faults"]) > PRINTED:
        print(f"  ... and {len(report['faults']) - PRINTED} more")
    for folder, count in zip(report["evaluation"], report["evaluation_pictures_found"], strict=True):
        print(f"{count} pictures of {folder} are in {report['train']}")
    print(f"{len(report['faults'])} training pictures named in {path}; `vlp data pack --drop` leaves them out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
