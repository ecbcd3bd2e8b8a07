"""Cache the output of a model's frozen vision prefix beside the pictures, so that training never runs it again.

    vlp data features configs/flickr8k.py shards/flickr8k/train shards/flickr8k-features/train

The config's vision part (a `TimmViT` with `frozen_blocks`) is built, each picture goes through the evaluation
transform and the prefix once, and new shards are written with every member of the old ones plus
`{key}.features.safetensors` (tokens (N, D), fp16). Train on them with `data.use_features=true`; evaluation reads the
pictures. Augmentation does not reach cached features. An interrupted run goes on at its last whole shard.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data features`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a config file (FILE.py or FILE.py:FUNCTION) whose model has the prefix")
    parser.add_argument("shards", type=Path, help="folder of indexed shards to read")
    parser.add_argument("out", type=Path, help="folder of indexed shards to write")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at once (default 32)")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16", help="autocast of the prefix (bf16)")
    parser.add_argument("--drop-pictures", action="store_true", help="leave the pictures out of the new shards")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields of the config to change")


def main(args: argparse.Namespace) -> int:
    """Write the new shards."""
    import torch
    from tqdm import tqdm

    from vlp.config import ConfigError, build, load_config, override
    from vlp.data.shards import INDEX, ShardFolder, ShardWriter

    config = override(load_config(args.config), args.overrides)
    vision = build(config.model.kwargs["vision"]).eval()
    if not getattr(vision, "frozen_blocks", 0):
        raise ConfigError(f"{args.config}: the vision part has no frozen prefix; set model.vision.frozen_blocks")
    if (args.out / INDEX).exists():
        print(f"{args.out} is complete, kept")
        return 0
    source = ShardFolder(args.shards)
    settings = [
        str(args.shards),
        source.num_samples,
        args.precision,
        args.drop_pictures,
        repr(config.model.kwargs["vision"]),
    ]
    finished = read_progress(args.out, settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vision.to(device)
    start = sum(s["samples"] for s in finished)
    writer = ShardWriter(args.out, source.shards[0]["samples"], finished)
    with tqdm(total=source.num_samples, initial=start, desc="features", unit="img") as bar:
        for begin in range(start, source.num_samples, args.batch_size):
            numbers = range(begin, min(begin + args.batch_size, source.num_samples))
            for key, members in with_features(source, numbers, vision, config.data, args, device):
                writer.add(key, members)
                if not writer.rows:
                    write_progress(args.out, settings, writer.shards)
            bar.update(len(numbers))
    writer.close()
    (args.out / "progress.json").unlink(missing_ok=True)
    for name in ("tokenizer.json", "vocab.txt"):
        if (args.shards / name).is_file():
            shutil.copy2(args.shards / name, args.out / name)
    return 0


def with_features(
    source: Any, numbers: range, vision: Any, data: Any, args: argparse.Namespace, device: Any
) -> list[tuple[str, dict[str, bytes]]]:
    """Keys and members of some samples, the prefix's tokens among them. Raises BadSampleError naming shard and key."""
    import torch
    from safetensors.torch import save

    from vlp.data.errors import BadSampleError
    from vlp.data.images import decode, normalise, resize
    from vlp.data.shards import PICTURES

    samples = []
    for number in numbers:
        place = source.locate(number)
        members = {s: m for s in source.suffixes if (m := source.read(*place, s)) is not None}
        samples.append((source.key(*place), members))
    pictures = []
    for number, (_, members) in zip(numbers, samples, strict=True):
        try:
            picture = decode(next(members[kind] for kind in PICTURES if kind in members))
        except (ValueError, StopIteration) as error:
            raise BadSampleError("undecodable picture", source.name(*source.locate(number)), str(error)) from error
        pictures.append(normalise(resize(picture, data.image_size), data))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
        tokens = vision.prefix(torch.stack(pictures).to(device)).half().cpu()
    for (_, members), row in zip(samples, tokens, strict=True):
        members["features.safetensors"] = save({"tokens": row.contiguous()})
        if args.drop_pictures:
            for kind in PICTURES:
                members.pop(kind, None)
    return samples


def read_progress(out: Path, settings: list[Any]) -> list[dict[str, Any]]:
    """Shards that an interrupted run with the same settings has finished."""
    path = out / "progress.json"
    state = json.loads(path.read_text()) if path.is_file() else {}
    return list(state["shards"]) if state.get("settings") == settings else []


def write_progress(out: Path, settings: list[Any], shards: list[dict[str, Any]]) -> None:
    """Remember the finished shards."""
    from data_tools.karpathy import write_json

    write_json(out / "progress.json", {"settings": settings, "shards": shards})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
