"""Cache the output of a model's frozen vision prefix beside the pictures, so that training never runs it again.

    vlp data features configs/flickr8k.py shards/flickr8k/train shards/flickr8k-features/train

The vision part (a `TimmViT` with `frozen_blocks`) is the one that a run of the config starts with, or that a checkpoint
holds. Each picture goes through the evaluation transform and the prefix once, and new shards are written with every
member of the old ones plus `{key}.features.safetensors` (tokens (N, D), fp16). Train on them with
`data.use_features=true`; evaluation reads the pictures. Augmentation does not reach cached features: `--views K` writes
each picture K times, as a sample `{key}` as it is and samples `{key}-1`, ... as training would draw them (data.flip,
data.crop_scale), all of one image_id, and so positives of each other. A complete set is kept and an interrupted one
goes on at its last whole shard, either only with the settings that it was begun with.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data features`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="config (FILE.py or FILE.py:FUNCTION) or checkpoint whose model has the prefix")
    parser.add_argument("shards", type=Path, help="folder of indexed shards to read")
    parser.add_argument("out", type=Path, help="folder of indexed shards to write")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at once (default 32)")
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16"), default="auto", help="autocast of the prefix (default auto)"
    )
    parser.add_argument(
        "--views", type=int, default=1, metavar="K", help="samples a picture: itself, and K - 1 augmented (default 1)"
    )
    parser.add_argument("--drop-pictures", action="store_true", help="leave the pictures out of the new shards")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields of the config to change")


def main(args: argparse.Namespace) -> int:
    """Write the new shards."""
    import torch
    from tqdm import tqdm

    from vlp.data.shards import INDEX, ShardFolder, ShardWriter
    from vlp.engine.precision import resolve_precision

    args.precision = resolve_precision(args.precision)
    source = ShardFolder(args.shards)
    vision, config = read_vision(args.config, args.overrides)
    settings = settings_of(source, config, args)
    finished = read_progress(args.out, settings)
    if (args.out / INDEX).exists():
        print(f"{args.out} is complete, kept")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vision.to(device)
    start = sum(s["samples"] for s in finished) // args.views
    writer = ShardWriter(args.out, source.shards[0]["samples"] * args.views, finished)
    with tqdm(total=source.num_samples, initial=start, desc="features", unit="img") as bar:
        for begin in range(start, source.num_samples, args.batch_size):
            numbers = range(begin, min(begin + args.batch_size, source.num_samples))
            for key, members in with_features(source, numbers, vision, config, args, device):
                writer.add(key, members)
                if not writer.rows:
                    write_progress(args.out, settings, writer.shards)
            bar.update(len(numbers))
    for name in ("tokenizer.json", "vocab.txt"):
        if (args.shards / name).is_file():
            shutil.copy2(args.shards / name, args.out / name)
    writer.flush()
    write_progress(args.out, settings, writer.shards)  # stays: it tells what the tokens were made with
    writer.close()
    return 0


def read_vision(source: str, overrides: list[str]) -> tuple[Any, Any]:
    """The vision part that a run of a config starts with, or a checkpoint's, and the config. Raises ConfigError."""
    from vlp.config import ConfigError, load_config, override
    from vlp.training import build_task, load_model

    if Path(source).is_dir():
        model, config, _ = load_model(source)
        override(config, overrides)
    else:
        config = override(load_config(source), overrides)
        model = build_task(config).model  # whole, so that random weights are those of the run
    vision: Any = model.vision
    if not getattr(vision, "frozen_blocks", 0):
        raise ConfigError(f"{source}: the vision part has no frozen prefix; set model.vision.frozen_blocks")
    if vision.image_size != config.data.image_size:
        raise ConfigError(
            f"data.image_size={config.data.image_size} but the vision part takes pictures of {vision.image_size}"
        )
    return vision.eval(), config


def settings_of(source: Any, config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What decides the bytes that are written."""
    from vlp.config import to_json

    data = config.data
    augmentation = [data.flip, list(data.crop_scale), list(data.randaugment)]
    return {
        "shards": [shard["sha256"] for shard in source.shards],
        "vision": to_json(config.model.kwargs["vision"]),
        "checkpoint": args.config if Path(args.config).is_dir() else None,
        "seed": config.run.seed,
        "scales": [list(data.mean), list(data.std)],
        "precision": args.precision,
        "views": args.views,
        "augmentation": augmentation if args.views > 1 else None,
        "drop_pictures": args.drop_pictures,
    }


def with_features(
    source: Any, numbers: range, vision: Any, config: Any, args: argparse.Namespace, device: Any
) -> list[tuple[str, dict[str, bytes]]]:
    """Keys and members of the samples of some pictures, the prefix's tokens among them.

    Raises BadSampleError naming shard and key for a picture that cannot be decoded or whose tokens leave fp16's range.
    """
    import torch
    from safetensors.torch import save

    from vlp.data.errors import BadSampleError
    from vlp.data.images import normalise

    samples, pictures = [], []
    for number in numbers:
        for key, members, picture in views_of(source, number, config, args):
            samples.append((key, members))
            pictures.append(normalise(picture, config.data))
    tokens = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
        for some in torch.stack(pictures).split(args.batch_size):
            tokens.append(vision.prefix(some.to(device)).half().cpu())
    for (key, members), row in zip(samples, torch.cat(tokens), strict=True):
        if not row.isfinite().all():
            raise BadSampleError("tokens beyond fp16", f"{source.folder}: {key}", "not finite, or over 65504")
        members["features.safetensors"] = save({"tokens": row.contiguous()})
    return samples


def views_of(
    source: Any, number: int, config: Any, args: argparse.Namespace
) -> list[tuple[str, dict[str, bytes], Any]]:
    """Key, members and square picture of a sample and of its augmented views. Raises BadSampleError."""
    import numpy as np

    from vlp.data.errors import BadSampleError
    from vlp.data.images import Picture, augment, decode, resize
    from vlp.data.shards import PICTURES

    place = source.locate(number)
    key, members = source.key(*place), {s: m for s in source.suffixes if (m := source.read(*place, s)) is not None}
    try:
        data = next(members[kind] for kind in PICTURES if kind in members)
        picture = decode(data)
    except (ValueError, StopIteration) as error:
        raise BadSampleError("undecodable picture", source.name(*place), str(error)) from error
    without = {kind: member for kind, member in members.items() if kind not in PICTURES}
    views = [(key, without if args.drop_pictures else members, resize(picture, config.data.image_size))]
    for view in range(1, args.views):
        random = np.random.default_rng((config.run.seed, number, view))
        augmented, mirrored = augment(Picture(data), config.data, random)
        views.append((f"{key}-{view}", mirrored_captions(without) if mirrored else dict(without), augmented))
    return views


def mirrored_captions(members: dict[str, bytes]) -> dict[str, bytes]:
    """The members of a mirrored picture: left and right change places in its captions."""
    from vlp.data.images import swap_sides

    record = json.loads(members["json"])
    record["captions"] = [caption | {"text": swap_sides(caption["text"])} for caption in record["captions"]]
    return members | {"json": json.dumps(record).encode()}


def read_progress(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Shards that are finished. Raises DataError when they were made with other settings."""
    from data_tools.conversion import PROGRESS
    from vlp.data.errors import DataError
    from vlp.data.shards import INDEX

    path = out / PROGRESS
    if not path.is_file():
        if (out / INDEX).exists():
            raise DataError(f"{out} holds shards of another tool; remove it or choose another folder")
        return []
    state = json.loads(path.read_text())
    before = state.get("settings", {})
    changed = sorted(name for name, value in settings.items() if before.get(name) != value)
    if changed:
        raise DataError(f"{out} was begun with other {', '.join(changed)}; remove it or choose another folder")
    return list(state["shards"])


def write_progress(out: Path, settings: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    """Remember the finished shards."""
    from data_tools.conversion import PROGRESS
    from data_tools.parallel import write_json

    write_json(out / PROGRESS, {"settings": settings, "shards": shards})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
