"""`vlp search OUT --images FOLDER "a sentence" ...`: the pictures that fit, on screen and on a contact sheet."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlp.retrieval.errors import SearchError

if TYPE_CHECKING:
    from vlp.loading import RetrievalModel
    from vlp.retrieval.find import Hit

RERANK = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", metavar="OUT", type=Path, help="an exported model (vlp export)")
    parser.add_argument("sentences", metavar="SENTENCE", nargs="+", help="what to look for")
    parser.add_argument("--images", metavar="FOLDER", type=Path, required=True, help="folder of pictures, or of shards")
    parser.add_argument("--top", type=int, default=8, metavar="N", help="hits a sentence (default 8)")
    parser.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help=f"order the best K anew, each read with the sentence (default {RERANK})",
    )
    parser.add_argument("--sheet", type=Path, default=Path("hits.png"), metavar="PNG", help="default hits.png")
    parser.add_argument(
        "--cache", action="store_true", help="keep the pictures' embeddings in OUT/search for next time"
    )


def main(args: argparse.Namespace) -> int:
    """Search, print the hits, write the sheet."""
    from vlp.loading import load_exported
    from vlp.retrieval.cache import EmbeddingCache
    from vlp.retrieval.find import find
    from vlp.retrieval.pictures import open_pictures
    from vlp.retrieval.sheet import draw_sheet, write_sheet

    if not all(sentence.strip() for sentence in args.sentences):
        raise SearchError("a sentence is empty; say what to look for")
    if args.top < 1:
        raise SearchError(f"--top is {args.top}; it must be at least 1")
    pictures = open_pictures(args.images, leave_out=args.sheet)
    model = load_exported(args.model)
    rerank = depth(model, args.rerank)
    if not model.embeds:
        pairs = len(pictures.names) * len(args.sentences)
        print(f"This model has no embeddings: it looks at all {pairs:,} pairs, which takes a while.")
    cache = EmbeddingCache(args.model, args.images, model.fingerprint) if args.cache and model.embeds else None
    found = find(model, pictures, args.sentences, top=args.top, rerank=rerank, cache=cache)
    print(listing(args.sentences, found.hits))
    for name in found.unreadable:
        print(f"not searched, {name}", file=sys.stderr)
    write_sheet(draw_sheet(args.sentences, found.hits, pictures), args.sheet)
    print(f"{len(pictures.names) - len(found.unreadable):,} pictures searched; contact sheet: {args.sheet}")
    return 0


def depth(model: "RetrievalModel", asked: int | None) -> int:
    """How many candidates to re-rank. Raises SearchError where the model cannot."""
    if asked is None:
        return RERANK if model.matches else 0
    if asked < 0:
        raise SearchError(f"--rerank is {asked}; it must be 0 or more")
    if asked and not model.matches:
        raise SearchError("this model has nothing to re-rank with but its embeddings; leave --rerank out")
    return asked


def listing(sentences: Sequence[str], hits: "Sequence[Sequence[Hit]]") -> str:
    """Ranked names and scores under each sentence."""
    lines = []
    for sentence, row in zip(sentences, hits, strict=True):
        lines += [f'"{sentence}"', f"  {'':>3}  {'cosine':>7}  {'match':>7}"]
        for rank, hit in enumerate(row, start=1):
            cosine = "" if hit.cosine is None else f"{hit.cosine:.4f}"
            match = "" if hit.match is None else f"{hit.match:+.2f}"
            lines.append(f"  {rank:>3}  {cosine:>7}  {match:>7}  {hit.name}")
    return "\n".join(lines)
