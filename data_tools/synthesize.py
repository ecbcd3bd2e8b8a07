"""Make the synthetic world: pictures of shapes, five captions each, and everything that is true of them.

`vlp data synthesize OUT` writes `OUT/{train,val,test}/` as indexed shards, each with the world's tokenizer, the
Karpathy-layout `OUT/dataset_synthetic.json`, and `OUT/summary.json`. The same arguments give the same bytes, whatever
the number of workers. A split appears under its name when it is whole, so an interrupted command is simply run again.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from data_tools.world.ceiling import Ceiling, ceiling
from data_tools.world.sample import SPLITS, Settings, make_sample, read_facts, read_scene
from data_tools.world.scene import MOST
from data_tools.world.words import vocabulary
from vlp.data.errors import DataError
from vlp.data.shards import INDEX, ShardFolder, ShardWriter

KARPATHY, SUMMARY, SETTINGS = "dataset_synthetic.json", "summary.json", "settings.json"
IMAGES = "images"
CHUNK = 50  # pictures that a worker makes at a time
ORACLE_PICTURES = 1000  # ceilings are measured on so many pictures of a split at most
LEAST_SIZE = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--train", type=int, default=20_000, help="pictures to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=500, help="pictures to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="pictures to test on (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of a picture in pixels (default: %(default)s)")
    parser.add_argument("--things", type=int, default=MOST, help="things in a picture, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes; no matter for the bytes (default: 2)")
    parser.add_argument(
        "--regions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="region features as of an object detector (default: yes)",
    )
    parser.add_argument("--pictures", action="store_true", help="also write the pictures as files, to OUT/images/")


def main(args: argparse.Namespace) -> int:
    """Make what is missing. Raises DataError where OUT holds something else."""
    counts = {split: getattr(args, split) for split in SPLITS}
    if args.size < LEAST_SIZE or min(counts.values()) < 0 or not any(counts.values()):
        raise DataError(
            f"--size {args.size} and {counts} pictures make no world; a picture needs a side of at least {LEAST_SIZE} "
            "pixels, and some split needs pictures"
        )
    if not 1 <= args.things <= MOST:
        raise DataError(f"--things {args.things}: a picture has room for 1 to {MOST} things")
    wanted = [Settings(s, n, args.size, args.seed, args.regions, args.things) for s, n in counts.items() if n]
    whole = {settings.split for settings in wanted if _is_whole(args.out, settings)}
    _refuse_strangers(args.out)
    for settings in wanted:
        if settings.split in whole:
            print(f"{settings.split}: already whole, kept")
        else:
            make_split(args.out, settings, max(args.workers, 1))
    if args.pictures:
        write_pictures(args.out, wanted)
    summary = summarize(args.out, wanted)
    print(json.dumps(summary, indent=1))
    return 0


def _is_whole(out: Path, settings: Settings) -> bool:
    """Whether a split is there as it should be. Raises DataError where something else has its name."""
    folder = out / settings.split
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        made = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError):
        made = None
    made = made and {"things": MOST} | made  # a world of before there was a choice
    if made == asdict(settings) and (folder / INDEX).is_file():
        return True
    found = f"a world with {_shown(made)}" if made else "something else than a synthetic world"
    asked = _shown(asdict(settings))
    raise DataError(f"{folder} holds {found}, and {asked} was asked for; choose another folder or remove it")


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if name != "split")


def _refuse_strangers(out: Path) -> None:
    own = {IMAGES, KARPATHY, SUMMARY, *SPLITS, *(f"{name}.part" for name in (KARPATHY, SUMMARY, *SPLITS))}
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder")
    strange = sorted(path.name for path in out.iterdir() if path.name not in own) if out.exists() else []
    if strange and not (out / SUMMARY).exists():
        raise DataError(f"{out} holds other things ({', '.join(strange[:3])}); choose an empty or a new folder")


# ---------------------------------------------------------------- one split


def make_split(out: Path, settings: Settings, workers: int) -> None:
    """Write a split beside and rename it when it is whole."""
    from tqdm import tqdm

    part = out / f"{settings.split}.part"
    if part.exists():
        if any(part.iterdir()) and not (part / SETTINGS).is_file():
            raise DataError(f"{part} is in the way and not of this command; remove it or choose another folder")
        shutil.rmtree(part)
    part.mkdir(parents=True)
    (part / SETTINGS).write_text(json.dumps(asdict(settings)) + "\n")
    write_tokenizer(part)
    with ShardWriter(part) as writer:
        samples = _samples(settings, workers)
        for key, members in tqdm(samples, settings.split, settings.pictures, unit=" pictures", file=sys.stderr):
            writer.add(key, members)
    os.replace(part, out / settings.split)


def _samples(settings: Settings, workers: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """All samples of a split in order, from this process or from several."""
    chunks = [range(i, min(i + CHUNK, settings.pictures)) for i in range(0, settings.pictures, CHUNK)]
    make = partial(_make_chunk, settings)
    if workers == 1 or len(chunks) == 1:
        yield from chain.from_iterable(map(make, chunks))
        return
    # Not forked: the caller may hold threads (torch, tokenizers), which a fork would copy in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
        yield from chain.from_iterable(pool.map(make, chunks))


def _make_chunk(settings: Settings, indexes: Iterable[int]) -> list[tuple[str, dict[str, bytes]]]:
    return [make_sample(settings, index) for index in indexes]


def write_tokenizer(folder: Path) -> None:
    """`tokenizer.json`: BERT's word pieces over the words of the grammar, each of them one piece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ids = {word: i for i, word in enumerate((*specials, *vocabulary()))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(specials))
    tokenizer.save(str(folder / "tokenizer.json"))


def write_pictures(out: Path, wanted: list[Settings]) -> None:
    """The pictures of the shards as files, which the Karpathy-layout JSON names."""
    (out / IMAGES).mkdir(exist_ok=True)
    for settings in wanted:
        shards = ShardFolder(out / settings.split)
        for i in range(shards.num_samples):
            (out / IMAGES / f"{settings.key(i)}.png").write_bytes(_read(shards, i, "png"))


# ---------------------------------------------------------------- what was made


def summarize(out: Path, wanted: list[Settings]) -> dict[str, Any]:
    """Read the splits back, write the Karpathy-layout JSON and the summary, and give back the summary."""
    images: list[dict[str, Any]] = []
    summary: dict[str, Any] = {"vocabulary": len(vocabulary())}
    for settings in wanted:
        shards = ShardFolder(out / settings.split)
        records = [json.loads(_read(shards, i, "json")) for i in range(shards.num_samples)]
        images += [karpathy_image(record, settings.split) for record in records]
        lengths = [len(c["text"].split()) for record in records for c in record["captions"]]
        summary[settings.split] = asdict(settings) | {
            "captions": shards.num_captions,
            "words_per_caption": round(sum(lengths) / len(lengths), 2),
            "oracle_R@1": asdict(oracle(shards, records)) if settings.split != "train" else None,
        }
    _write(out / KARPATHY, {"dataset": "synthetic", "images": images})
    _write(out / SUMMARY, summary, indent=1)
    return summary


def oracle(shards: ShardFolder, records: list[dict[str, Any]]) -> Ceiling:
    """The retrieval ceiling of a split."""
    records = records[:ORACLE_PICTURES]
    scenes = [read_scene(json.loads(_read(shards, i, "truth.json"))) for i in range(len(records))]
    return ceiling(scenes, [read_facts(record) for record in records])


def _read(shards: ShardFolder, sample: int, suffix: str) -> bytes:
    data = shards.read(*shards.locate(sample), suffix)
    assert data is not None
    return data


def karpathy_image(record: dict[str, Any], split: str) -> dict[str, Any]:
    """An entry of `images` in the layout of Karpathy's splits."""
    sentences = [
        {"raw": c["text"], "tokens": c["text"].replace(",", "").split(), "imgid": record["image_id"], "sentid": c["id"]}
        for c in record["captions"]
    ]
    return {
        "filename": record["filename"],
        "imgid": record["image_id"],
        "split": split,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "sentences": sentences,
    }


def _write(path: Path, record: Any, indent: int | None = None) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=indent) + "\n")
    os.replace(part, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m data_tools.synthesize", description=__doc__)
    add_arguments(parser)
    sys.exit(main(parser.parse_args()))
