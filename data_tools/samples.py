"""What is wrong with one sample of a shard, or with the shard around it."""

import hashlib
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

from data_tools.conversion import caption_fault
from data_tools.pictures import reason
from data_tools.tars import parse, scan
from vlp.data.errors import BadSampleError, DataError
from vlp.data.record import MEMBER_BYTES, TEXT_BYTES
from vlp.data.shards import KEY, PICTURES

REGIONS, FEATURES = "regions.safetensors", "features.safetensors"
KNOWN_BY_INDEX = 10  # strangers named of a shard


def look_at_chunk(source: Any, unit: tuple[int, int, int]) -> dict[str, Any]:
    """Faults of the rows `begin` to `end` of a shard, and hashes of their keys and pictures (0 where there is none)."""
    shard, begin, end = unit
    told: dict[str, Any] = {"shard_faults": [], "faults": [], "keys": [], "pictures": []}
    if begin == 0:
        told["shard_faults"] = [fault | {"shard": shard} for fault in shard_faults(source, shard)]
    if fault := table_fault(source, shard):
        place = {"shard": shard, "file": source.shards[shard]["file"], "key": "", "cause": "unreadable table"}
        told["faults"] = [place | {"row": row, "detail": fault} for row in range(begin, end)]
        return told | {"keys": ["0"] * (end - begin), "pictures": ["0"] * (end - begin)}
    sums = _checksums(source, shard)
    for row in range(begin, end):
        key, picture = source.key(shard, row), "0"
        try:
            picture = look_at_sample(source, shard, row, key)
            if sums is not None:
                _look_at_checksums(source, shard, row, sums[row].tolist())
        except BadSampleError as error:
            place = {"shard": shard, "file": source.shards[shard]["file"], "row": row, "key": key}
            told["faults"].append(place | {"cause": error.cause, "detail": error.detail})
        told["keys"].append(short_hash(key.encode()) if key else "0")
        told["pictures"].append(picture)
    return told


def table_fault(source: Any, shard: int) -> str:
    """Why the member table of a shard cannot be read; empty where it can."""
    try:
        source.table(shard)
    except DataError as error:
        return f"{error}; `vlp data index --rebuild` makes it from the tar"
    return ""


def _checksums(source: Any, shard: int) -> Any:
    """CRC-32 of a shard's members, None where there are none that can be used."""
    try:
        return source.checksums(shard)
    except DataError:
        return None  # a fault of the shard, which names it


def _look_at_checksums(source: Any, shard: int, row: int, sums: list[int]) -> None:
    """Behind all else: what is changed and yet looks well."""
    for suffix, told in zip(source.suffixes, sums, strict=True):
        data = source.read(shard, row, suffix)
        if data is not None and zlib.crc32(data) != told:
            raise BadSampleError("member changed", source.name(shard, row), f"{suffix} has another CRC-32")


def short_hash(data: bytes) -> str:
    """64 bits, as hexadecimal."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def look_at_sample(source: Any, shard: int, row: int, key: str) -> str:
    """The hash of the sample's picture, "0" where it has none. Raises BadSampleError."""
    place = f"{source.folder / source.shards[shard]['file']}: {key or row}"
    _look_at_headers(source, shard, row, key, place)
    _look_at_record(source, shard, row, place)
    for suffix, names in ((FEATURES, ("tokens",)), (REGIONS, ("features", "boxes", "class_probs"))):
        if (data := source.read(shard, row, suffix)) is not None:
            look_at_tensors(data, suffix, names, place)
    kinds = [kind for kind in PICTURES if source.has(shard, row, kind)]
    if not kinds:
        if not any(source.has(shard, row, suffix) for suffix in (FEATURES, REGIONS)):
            raise BadSampleError("no picture", place)
        return "0"
    if len(kinds) > 1:
        raise BadSampleError("several pictures", place, ", ".join(kinds))
    return _look_at_picture(source, shard, row, kinds[0], place)


def _look_at_headers(source: Any, shard: int, row: int, key: str, place: str) -> None:
    """Every member must have a header of its own before it, with its name and size: other tar readers rely on it."""
    for suffix in source.suffixes:
        if not source.has(shard, row, suffix):
            continue
        offset, size = source._place(shard, row, suffix)
        header = parse(_header(source.folder / source.file_of(shard, suffix), offset, size, place))
        if header is None or header.size != size:
            raise BadSampleError("damaged tar header", place, f"before {suffix}")
        foreign = "records" in source.shards[shard] and suffix != "json"
        if not foreign and header.name != f"{key}.{suffix}":
            raise BadSampleError("member of another sample", place, f"{header.name!r} in place of {suffix}")
    if not KEY.fullmatch(key):
        raise BadSampleError("unsafe key", place, repr(key))


def _header(path: Path, offset: int, size: int, place: str) -> bytes:
    """The block before a member that lies wholly in its file."""
    try:
        with open(path, "rb") as file:
            if offset < tarfile.BLOCKSIZE or offset + size > os.fstat(file.fileno()).st_size:
                raise BadSampleError("shard ends too early", place)
            return os.pread(file.fileno(), tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
    except OSError as error:
        raise BadSampleError("shard missing", place, error.strerror or str(error)) from error


def _look_at_record(source: Any, shard: int, row: int, place: str) -> None:
    size = source._place(shard, row, "json")[1]
    if size > TEXT_BYTES:
        raise BadSampleError("record too large", place, f"{size} bytes, above the limit of {TEXT_BYTES}")
    try:
        record = json.loads(source.read(shard, row, "json") or b"")
        int(record["image_id"])
        captions = [(int(caption["id"]), caption["text"]) for caption in record["captions"]]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, BadSampleError):
            raise
        raise BadSampleError("unreadable record", place, f"{type(error).__name__}: {error}") from error
    if not captions:
        raise BadSampleError("no caption", place)
    for number, text in captions:
        if fault := caption_fault(text):
            raise BadSampleError("bad caption", place, f"caption {number} {fault}")
    if len(captions) != source.captions_of(shard, row):
        detail = f"{len(captions)}, the index says {source.captions_of(shard, row)}"
        raise BadSampleError("captions not as indexed", place, detail)


def _look_at_picture(source: Any, shard: int, row: int, kind: str, place: str) -> str:
    from vlp.data.images import decode

    size = source._place(shard, row, kind)[1]
    if size > MEMBER_BYTES:
        raise BadSampleError("picture too large", place, f"{size} bytes, above the limit of {MEMBER_BYTES}")
    data = source.read(shard, row, kind)
    try:
        decode(data)
    except ValueError as error:
        raise BadSampleError("undecodable picture", place, reason(error)) from error
    return short_hash(data)


def look_at_tensors(data: bytes, suffix: str, names: tuple[str, ...], place: str) -> None:
    """Raise BadSampleError where the tensors cannot be read, do not fit each other or are not finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        lengths = {len(tensors[name]) for name in names}
    except (SafetensorError, KeyError) as error:
        raise BadSampleError(f"unreadable {suffix}", place, str(error)) from error
    if len(lengths) != 1 or 0 in lengths:
        raise BadSampleError(f"unreadable {suffix}", place, f"{' and '.join(names)} have {sorted(lengths)} rows")
    if not all(torch.isfinite(tensors[name]).all() for name in names):
        raise BadSampleError(f"unreadable {suffix}", place, "not finite")
    boxes = tensors.get("boxes")
    if boxes is not None and (boxes.shape[1:] != (4,) or boxes.min() < 0 or boxes.max() > 1):
        raise BadSampleError(f"unreadable {suffix}", place, "boxes are not four shares of the picture's sides")


# ---------------------------------------------------------------- the shard around it


def shard_faults(source: Any, shard: int) -> list[dict[str, Any]]:
    """What is wrong with a shard's files: missing, of another size or content, or with members that are not indexed."""
    entry, found = source.shards[shard], []
    for file in [entry, *([entry["records"]] if "records" in entry else [])]:
        path = source.folder / file["file"]
        if not path.is_file():
            found.append({"file": file["file"], "cause": "missing", "detail": f"{entry['samples']} samples"})
            continue
        size = path.stat().st_size
        if size != file["bytes"]:
            detail = f"{size} bytes, the index says {file['bytes']}"
            found.append({"file": file["file"], "cause": "truncated or changed", "detail": detail})
            continue
        with open(path, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file["sha256"]:
                found.append({"file": file["file"], "cause": "other checksum", "detail": "bytes were changed"})
    try:
        source.checksums(shard)
    except DataError as error:
        detail = f"{error}; `vlp data index --rebuild` makes them from the tar as it is"
        found.append({"file": entry["file"], "cause": "checksums unreadable", "detail": detail})
    path = source.folder / entry["file"]
    # A tar of another make has members that are not read, by design.
    if path.is_file() and "records" not in entry and not table_fault(source, shard):
        found += strangers(source, shard, path)
    return found


def strangers(source: Any, shard: int, path: Path) -> list[dict[str, Any]]:
    """Members of the tar that the index does not know, and damaged places between members."""
    table = source.table(shard)
    indexed = set(table[:, 1::2].ravel().tolist())
    found = scan(path)
    names = [member.name for member in found.members if member.offset not in indexed]
    faults = [{"file": path.name, "cause": "damaged tar", "detail": fault} for fault in found.faults]
    if names:
        some = ", ".join(names[:KNOWN_BY_INDEX])
        faults.append(
            {"file": path.name, "cause": "members that are not indexed", "detail": f"{len(names)}: {some}; never read"}
        )
    return faults
