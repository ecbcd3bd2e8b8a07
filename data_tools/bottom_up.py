"""Region features that others have made: bottom-up-attention TSV (also LXMERT's), npz, and UNITER's LMDB.

Each is indexed by name once and then read at a position, so that files of any size can be joined with shards.
"""

import base64
import io
import mmap
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.found import Found
from vlp.data.errors import DataError

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")  # Anderson 2018
OBJECTS = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
LXMERT = ("img_id", "img_h", "img_w", *OBJECTS, "num_boxes", "boxes", "features")  # Tan 2019
MAX_UNPACKED = 256 << 20  # bytes of a picture's npz
GENOME = 1600  # classes of Visual Genome; files of 1601 have background first
NAMES = {
    "features": ("features", "x", "feat"),
    "boxes": ("norm_bb", "bbox", "boxes", "bb"),
    "width": ("image_w", "img_w", "image_width", "width"),
    "height": ("image_h", "img_h", "image_height", "height"),
    "count": ("num_bbox", "num_boxes"),
    "class_probs": ("soft_labels", "class_probs", "cls_prob"),
    "objects": ("objects_id", "objects"),
    "scores": ("objects_conf", "conf"),
}
Raw = dict[str, Any]


class Features:
    """The features of a file or folder, by picture."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self.kind = "lmdb" if (path / "data.mdb").is_file() else "npz"
        else:
            self.kind = "tsv"
        places: dict[str, Any] = {"lmdb": lmdb_places, "npz": npz_places, "tsv": tsv_places}[self.kind](path)
        if not places:
            raise DataError(f"{path} holds no features; give a .tsv, a folder of .npz or a folder with data.mdb")
        self.places = {stem_of(name): place for name, place in places.items()}
        self.numbers = unique_numbers(list(self.places))

    def read(self, filename: str, members: dict[str, bytes]) -> Found:
        """Regions of a picture. Raises ValueError where there are none, or none that can be read."""
        stem = stem_of(filename)
        name = stem if stem in self.places else self.numbers.get(number_of(stem))
        if name is None:
            raise ValueError(f"no features of {filename!r} in {self.path}")
        try:
            return standard(self._raw(self.places[name]), members)
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"features {name!r} in {self.path} cannot be read: {error}") from error

    def _raw(self, place: Any) -> Raw:
        if self.kind == "tsv":
            with open(self.path, "rb") as file:
                file.seek(place[0])
                return tsv_row(file.read(place[1]))
        if self.kind == "npz":
            return npz_arrays(Path(place).read_bytes())
        with opened(str(self.path)).begin() as transaction:
            data: bytes = transaction.get(place)
        if data.startswith(b"PK"):  # written compressed
            return npz_arrays(data)
        from data_tools.numpy_msgpack import unpack

        return unpack(data)


def stem_of(name: str) -> str:
    """`train2014/COCO_train2014_000000000009.jpg` -> `coco_train2014_000000000009`."""
    return re.sub(r"\.(jpe?g|png|webp|npz)$", "", name.rsplit("/", 1)[-1], flags=re.IGNORECASE).lower()


def number_of(stem: str) -> int | None:
    """The number that ends a name."""
    found = re.search(r"(\d+)$", stem)
    return int(found[1]) if found else None


def unique_numbers(stems: list[str]) -> dict[int | None, str]:
    """Names by the number that ends them, where only one has it."""
    found: dict[int | None, list[str]] = {}
    for stem in stems:
        found.setdefault(number_of(stem), []).append(stem)
    return {number: names[0] for number, names in found.items() if number is not None and len(names) == 1}


# ---------------------------------------------------------------- the three kinds


def tsv_places(path: Path) -> dict[str, tuple[int, int]]:
    """(offset, length) of the line of every picture."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .tsv, a folder of .npz or a folder with data.mdb")
    found: dict[str, tuple[int, int]] = {}
    if not path.stat().st_size:
        return found
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        begin = 0
        while begin < len(view):
            end = view.find(b"\n", begin)
            end = len(view) if end < 0 else end
            tab = view.find(b"\t", begin, end)
            if tab >= 0:
                found[view[begin:tab].decode("utf-8", "replace")] = (begin, end - begin)
            begin = end + 1
    return found


def tsv_row(line: bytes) -> Raw:
    """The fields of a line. Raises ValueError where they do not fit each other."""
    fields = line.rstrip(b"\r\n").split(b"\t")
    names = {len(BOTTOM_UP): BOTTOM_UP, len(LXMERT): LXMERT}.get(len(fields))
    if names is None:
        raise ValueError(f"{len(fields)} columns; bottom-up attention's files have 6, LXMERT's 10")
    told: Raw = dict(zip(names, fields, strict=True))
    count = int(told["num_boxes"])
    for name, kind in (("boxes", "<f4"), ("features", "<f4"), ("objects_id", "<i8"), ("objects_conf", "<f4")):
        if name in told:
            flat = np.frombuffer(base64.b64decode(told[name]), kind)
            told[name] = flat.reshape(count, -1)
    return told | {name: int(told[name]) for name in ("image_w", "image_h", "img_w", "img_h") if name in told}


def npz_places(path: Path) -> dict[str, Path]:
    """Files by name."""
    return {file.name: file for file in sorted(path.rglob("*.npz"))}


def npz_arrays(data: bytes) -> Raw:
    """Arrays of an npz. Raises ValueError for arrays of objects: they would have to be unpickled."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        size = sum(entry.file_size for entry in packed.infolist())
    if size > MAX_UNPACKED:
        raise ValueError(f"{size} bytes when unpacked, above the limit of {MAX_UNPACKED}")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files if not name.startswith("info")}


@cache
def opened(path: str) -> Any:
    """An LMDB environment, read only."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError("an LMDB needs `pip install 'vlp[lmdb]'`") from error
    return lmdb.open(path, readonly=True, lock=False, readahead=False)


def lmdb_places(path: Path) -> dict[str, bytes]:
    """Keys by name; those that are about the file itself are left out."""
    with opened(str(path)).begin() as transaction:
        keys = transaction.cursor().iternext(keys=True, values=False)
        return {key.decode("utf-8", "replace"): key for key in keys if not key.startswith(b"__")}


# ---------------------------------------------------------------- to one layout


def pick(raw: Raw, what: str) -> Any:
    """A field under any of its names, None where it has none."""
    return next((raw[name] for name in NAMES[what] if name in raw), None)


def standard(raw: Raw, members: dict[str, bytes]) -> Found:
    """Regions in our layout. Raises ValueError for arrays that do not fit each other."""
    features, boxes = pick(raw, "features"), pick(raw, "boxes")
    if features is None or boxes is None:
        raise ValueError(f"neither features nor boxes among {', '.join(sorted(raw))}")
    count = pick(raw, "count")
    count = len(boxes) if count is None else int(count)
    features, boxes = np.asarray(features, np.float32)[:count], np.asarray(boxes, np.float32)[:count, :4]
    if features.ndim != 2 or boxes.shape != (len(features), 4):
        raise ValueError(f"features {features.shape} and boxes {boxes.shape} do not fit each other")
    if "norm_bb" not in raw and len(boxes):
        width, height = size_of(raw, members)
        boxes = boxes / np.array([width, height, width, height], np.float32)
    return Found(features, boxes, classes_of(raw, len(features)))


def size_of(raw: Raw, members: dict[str, bytes]) -> tuple[int, int]:
    """The picture's width and height in the pixels of the boxes: as told, else those of the picture in the shard."""
    from PIL import Image

    from vlp.data.shards import PICTURES

    width, height = pick(raw, "width"), pick(raw, "height")
    if width is not None and height is not None:
        return int(width), int(height)
    data = next((members[kind] for kind in PICTURES if kind in members), None)
    if data is None:
        raise ValueError("boxes in pixels, and neither the features nor a picture tell the picture's size")
    return Image.open(io.BytesIO(data)).size


def classes_of(raw: Raw, count: int) -> NDArray[np.float32]:
    """(R, C). Where only the likeliest class is told the rest is spread evenly; where none is, all have one class."""
    probs, objects, scores = pick(raw, "class_probs"), pick(raw, "objects"), pick(raw, "scores")
    if probs is not None:
        probs = np.asarray(probs, np.float32)[:count]
        if probs.ndim == 2 and probs.shape[1] == GENOME + 1:
            probs = probs[:, 1:]
        return np.asarray(probs / np.maximum(probs.sum(1, keepdims=True), 1e-12), np.float32)
    if objects is None:
        return np.ones((count, 1), np.float32)
    objects = np.asarray(objects).reshape(-1)[:count].astype(np.int64)
    likely = np.ones(count) if scores is None else np.asarray(scores, np.float64).reshape(-1)[:count]
    if len(objects) != count or len(likely) != count or ((objects < 0) | (objects >= GENOME)).any():
        raise ValueError(f"classes of {len(objects)} objects for {count} regions, or beyond {GENOME}")
    probs = np.repeat(((1 - likely) / (GENOME - 1))[:, None], GENOME, axis=1)
    probs[np.arange(count), objects] = likely
    return probs.astype(np.float32)
