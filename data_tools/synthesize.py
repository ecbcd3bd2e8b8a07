"""The synthetic world: pictures of coloured shapes with captions, to learn from in minutes and to measure against.

    vlp data synthesize data/world --train 20000 --val 500 --test 500

Pictures hold 1 to 6 objects (shape x colour x size x texture) on varied backgrounds; each has five captions from a
compositional grammar with synonyms, each naming another subset of the facts. 40 % of the pictures of val and test come
as twins that differ in one attribute or in the places of two objects. Beside picture and captions a sample keeps its
truth (boxes, class ids, masks, relations, tags; captions link phrases to objects) and region features. The same
arguments give the same bytes, whatever the number of workers.
"""

import argparse
import io
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

SPLITS = ("train", "val", "test")
TWINS = 0.4  # share of val and test that comes in twins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data synthesize`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write: train/ val/ test/ of shards, dataset_synthetic.json")
    for split, count in zip(SPLITS, (20_000, 500, 500), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"pictures of {split} (default {count})")
    parser.add_argument("--size", type=int, default=64, help="side of a picture in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world of pictures (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--pictures", action="store_true", help="also write the pictures as files under OUT/images/")


def main(args: argparse.Namespace) -> int:
    """Write the three splits, or keep them where the same settings have written them."""
    from vlp.data.errors import DataError

    if args.size < 32:
        raise DataError(f"--size {args.size} is too small to show shapes and textures; 32 is the least")
    entries: list[dict[str, Any]] = []
    for split in SPLITS:
        count = getattr(args, split)
        if count:
            entries += make_split(args, split, count)
    _write_json(args.out / "dataset_synthetic.json", {"dataset": "synthetic", "images": entries})
    for split in SPLITS[1:]:
        if 0 < getattr(args, split) <= 1000:
            print(ceiling(args, split))
    return 0


def make_split(args: argparse.Namespace, split: str, count: int) -> list[dict[str, Any]]:
    """Write one split's shards; its entries for the Karpathy-layout JSON."""
    from tqdm import tqdm

    from vlp.data.errors import DataError
    from vlp.data.shards import INDEX, ShardWriter

    folder, settings = args.out / split, {"count": count, "size": args.size, "seed": args.seed, "split": split}
    work = partial(make_picture, seed=args.seed, split=split, size=args.size, twins=twins_of(split, count))
    record = folder / "world.json"
    if folder.exists() and any(folder.iterdir()) and not record.is_file():
        raise DataError(f"{folder} holds something else; choose an empty or new folder")
    complete = record.is_file() and (folder / INDEX).is_file()
    if complete and json.loads(record.read_text()) != settings:
        raise DataError(f"{folder} holds a world of other settings ({record.read_text().strip()}); choose another folder")
    if complete and not args.pictures:
        print(f"{split}: {count} pictures, complete before, kept")
        return read_entries(folder, split)
    shutil.rmtree(folder, ignore_errors=True)
    _write_json(record, settings)
    entries = []
    with ProcessPoolExecutor(max(args.workers, 1)) as pool, ShardWriter(folder) as writer:
        made = pool.map(work, range(count), chunksize=64)
        for key, members in tqdm(made, desc=split, total=count, unit="img"):
            writer.add(key, members)
            entries.append(karpathy_entry(json.loads(members["json"]), split))
            if args.pictures:
                _write_bytes(args.out / "images" / entries[-1]["filename"], members["png"])
    save_tokenizer(folder)
    return entries


def twins_of(split: str, count: int) -> int:
    """How many pictures of a split, at its beginning, come in twins."""
    return 0 if split == "train" else int(count * TWINS) // 2 * 2


def make_picture(index: int, *, seed: int, split: str, size: int, twins: int) -> tuple[str, dict[str, bytes]]:
    """Key and members of picture `index`: a function of its arguments alone."""
    import numpy as np

    from data_tools.world.grammar import write_captions
    from data_tools.world.regions import region_bytes
    from data_tools.world.render import render
    from data_tools.world.scene import draw_scene, draw_twin, truth

    place, paired = [seed, SPLITS.index(split)], index < twins
    base = np.random.default_rng([*place, index // 2 if paired else index, int(paired)])
    scene, other, difference = draw_scene(base, fewest=2 if paired else 1), None, None
    if paired:
        twin, difference = draw_twin(scene, base)
        scene, other = (twin, scene) if index % 2 else (scene, twin)
    random = np.random.default_rng([*place, index, 2])
    captions = write_captions(scene, random, twin=other, differing=difference["objects"] if difference else None)
    picture, mask = render(scene, size, random)
    number = SPLITS.index(split) * 10_000_000 + index
    record = {
        "image_id": number,
        "filename": f"{split}-{index:07d}.png",
        "captions": [
            {"id": number * 5 + i, "text": c.text, "phrases": c.phrases, "facts": c.facts.record()}
            for i, c in enumerate(captions)
        ],
    }
    twin_of = {"image_id": number ^ 1 if index % 2 == number % 2 else number, **difference} if difference else None
    members = {
        "png": _png(picture),
        "json": json.dumps(record).encode(),
        "truth.json": json.dumps(truth(scene) | {"twin": twin_of}).encode(),
        "masks.png": _png(mask),
        "regions.safetensors": region_bytes(scene, random),
    }
    return f"{number:09d}", members


def _png(pixels: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def karpathy_entry(record: dict[str, Any], split: str) -> dict[str, Any]:
    """One entry of a Karpathy-layout JSON."""
    sentences = [
        {"raw": c["text"], "tokens": c["text"].split(), "imgid": record["image_id"], "sentid": c["id"]}
        for c in record["captions"]
    ]
    return {
        "filename": record["filename"],
        "imgid": record["image_id"],
        "split": split,
        "sentences": sentences,
        "sentids": [s["sentid"] for s in sentences],
    }


def read_entries(folder: Path, split: str) -> list[dict[str, Any]]:
    """Karpathy entries of a split that was written before."""
    from vlp.data.shards import ShardFolder

    shards = ShardFolder(folder)
    places = (shards.locate(i) for i in range(shards.num_samples))
    return [karpathy_entry(json.loads(shards.read(*place, "json") or b""), split) for place in places]


def save_tokenizer(folder: Path) -> None:
    """A word-piece tokenizer over the grammar's words, written as `tokenizer.json`."""
    from tokenizers.implementations import BertWordPieceTokenizer

    from data_tools.world.grammar import vocabulary
    from vlp.data.tokenizer import SPECIALS, Tokenizer

    words = {word: i for i, word in enumerate([*SPECIALS, *vocabulary()])}
    Tokenizer(BertWordPieceTokenizer(words, lowercase=True)._tokenizer, "the world's vocabulary").save(folder)


def ceiling(args: argparse.Namespace, split: str) -> str:
    """What an oracle that reads scenes and facts perfectly would retrieve: captions leave room for other pictures."""
    import torch

    from data_tools.world.grammar import Facts, matches
    from data_tools.world.scene import Scene, Thing
    from vlp.data.shards import ShardFolder
    from vlp.retrieval.ranks import retrieval_metrics

    shards = ShardFolder(args.out / split)
    scenes, facts, owners = [], [], []
    for i in range(shards.num_samples):
        place = shards.locate(i)
        told = json.loads(shards.read(*place, "truth.json") or b"")
        things = [{k: v for k, v in o.items() if k not in ("box", "class_id")} for o in told["objects"]]
        scenes.append(Scene(told["background"], told["pattern"], tuple(Thing(**t) for t in things)))
        captions = json.loads(shards.read(*place, "json") or b"")["captions"]
        facts += [Facts(**c["facts"]) for c in captions]
        owners += [i] * len(captions)
    fits = torch.tensor([[matches(scene, f) for f in facts] for scene in scenes]).float()
    metrics = retrieval_metrics(fits / fits.sum(0), torch.tensor(owners))
    recalls = (f"{side} R@1 {metrics[side]['R@1']:.1f} %" for side in ("image to text", "text to image"))
    return f"{split}: an oracle of the facts retrieves {', '.join(recalls)}"


def _write_json(path: Path, record: Any) -> None:
    _write_bytes(path, (json.dumps(record) + "\n").encode())


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
