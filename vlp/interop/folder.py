"""Writing an export: the model's calls, weights, tokenizer, preprocessing, measured numbers and card, in one move."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vlp
from vlp.config import to_json
from vlp.data.config import DataConfig
from vlp.data.tokenizer import FILE as TOKENIZER
from vlp.engine import checkpoint
from vlp.engine.tensors import FLOATS, in_dtype, write_tensors
from vlp.interop.card import Card, render, short
from vlp.loading import CONFIG, FORMAT, MODEL, PREPROCESSING, RESIZE, VERSION, ExportError
from vlp.retrieval.cache import FOLDER as CACHE
from vlp.training import load_model
from vlp.weights import without_weights

CARD, EVALUATIONS = "README.md", "evaluation*.json"


def export(source: Path, out: Path, *, dtype: str = "fp32", name: str = "") -> Card:
    """Write the student model of a checkpoint, or of a run's newest one, to `out`, and return what its card says.

    An export that `out` holds is replaced. Raises ExportError where `out` holds anything else, and CheckpointError
    for a checkpoint that cannot be read.
    """
    check_place(out)
    place = checkpoint.resolve(source)
    model, config, tokenizer = load_model(place)
    evaluations = {path.name: _evaluation(path) for path in sorted(place.glob(EVALUATIONS))}
    card = Card(
        name=name or out.name,
        version=vlp.__version__,
        dtype=dtype,
        config=config,
        state=checkpoint.read_state(place),
        parts={part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()},
        parameters=sum(p.numel() for p in model.parameters()),
        evaluations=evaluations,
    )
    hidden = out.with_name(f".{out.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        write_tensors(hidden / MODEL, in_dtype(model.state_dict(), FLOATS[dtype]))
        tokenizer.save(hidden)
        record = {
            "format": FORMAT,
            "format_version": VERSION,
            "vlp_version": vlp.__version__,
            "dtype": dtype,
            "weights_sha256": _sha256(hidden / MODEL),
            "model": to_json(without_weights(config.model)),
            "mix": config.evaluation.mix,
        }
        _write(hidden, {CONFIG: _json(record), PREPROCESSING: _json(preprocessing(config.data)), CARD: render(card)})
        _write(hidden, {file: _json(found) for file, found in evaluations.items()})
        _move(hidden, out)
    except OSError as error:
        raise ExportError(f"{out} could not be written ({error})") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return card


def check_place(out: Path) -> None:
    """Raise ExportError unless `out` is free: not there, empty, or an export without any other file."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out} is a file; name a folder")
    names = {path.name for path in out.iterdir()}
    if names and not {CONFIG, PREPROCESSING, MODEL} <= names:
        raise ExportError(f"{out} is not empty and no export, so it is left alone; choose another folder")
    own = {CONFIG, PREPROCESSING, MODEL, TOKENIZER, CARD, CACHE} | {path.name for path in out.glob(EVALUATIONS)}
    if names - own:
        raise ExportError(
            f"{out} holds files that no export writes ({', '.join(sorted(names - own))}); move them first"
        )


def preprocessing(data: DataConfig) -> dict[str, Any]:
    """What evaluation does to a picture and a caption, as a record."""
    return {
        "image_size": data.image_size,
        "resize": RESIZE,
        "mean": list(data.mean),
        "std": list(data.std),
        "max_length": data.max_length,
    }


def _evaluation(path: Path) -> dict[str, Any]:
    """The record that `vlp evaluate` left, without the author's folders."""
    try:
        record = dict(json.loads(path.read_text()))
        return record | {"data": short(record["data"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path} is no evaluation record ({error!r}); evaluate again, or move it away") from error


def _json(record: Any) -> str:
    return json.dumps(record, indent=2) + "\n"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(hidden: Path, out: Path) -> None:
    """Put the finished folder in its place; an older export goes only when the new one is whole."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(hidden, out)
    shutil.rmtree(old, ignore_errors=True)
