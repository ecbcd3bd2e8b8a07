"""One tar of any WebDataset writer to a member table and records, the tar left as it is."""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.conversion import caption_fault
from data_tools.pictures import reason
from data_tools.tars import Member, by_sample, scan
from vlp.data.checksums import KIND, write_checksums
from vlp.data.record import MEMBER_BYTES, TEXT_BYTES
from vlp.data.shards import KEY, PICTURES, SUFFIXES

KINDS = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "webp": "webp"}
NUMBERS = 10_000_000  # image ids of a tar: its number times this, plus the sample's
Made = tuple[list[int], bytes | None]  # a row of the table, and a record of our own where the tar has none


class RefusedError(ValueError):
    """A sample that the index leaves out."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause} ({detail})" if detail else cause)
        self.cause = cause


def index_tar(number: int, path: Path, decode: bool) -> dict[str, Any]:
    """Write the table of a tar, and its records where they are not vlp's own; what was found and what was left out."""
    found = scan(path)
    samples, repeated = by_sample(found.members)
    bad = [f"{path.name}: {fault}" for fault in found.faults + repeated]
    causes = Counter({"damaged place in a tar": len(found.faults), "member twice": len(repeated)})
    made: dict[str, Made] = {}
    with open(path, "rb") as file:
        for i, (key, members) in enumerate(samples.items()):
            try:
                name = safe_key(key, made)
                row, record = _row(file, path.name, NUMBERS * number + i, key, members, decode)
                if record is None and members["json"].name != f"{name}.json":
                    record = _read(file, members["json"])  # in a tar of its own it has the name that reading looks for
                made[name] = row, record
            except RefusedError as error:
                causes[error.cause] += 1
                bad.append(f"{path.name}: {key}: {error}")
    shard = _write(path, made) if made else {"file": path.name, "samples": 0, "captions": 0}
    return {
        "shard": shard,
        "left_out": len(samples) - len(made) + len(found.faults),
        "causes": dict(+causes),
        "bad": bad,
    }


def safe_key(key: str, taken: Any = ()) -> str:
    """A key as a name without folders. Raises RefusedError for one that leads out of a folder or is no file name."""
    parts = [part for part in key.split("/") if part != "."]
    if ".." in parts or key.startswith("/") or "\\" in key:
        raise RefusedError("unsafe key", "it leads out of its folder")
    name = "_".join(parts)
    if not KEY.fullmatch(name):
        raise RefusedError("unusable key", "not 1 to 64 letters, digits, '_' or '-'")
    if name in taken:
        raise RefusedError("duplicate key")
    return name


def _row(file: Any, tar: str, number: int, key: str, members: dict[str, Member], decode: bool) -> Made:
    """Raises RefusedError."""
    own = {KINDS.get(suffix, suffix): member for suffix, member in members.items()}
    kinds = [kind for kind in PICTURES if kind in own]
    if not kinds and not {"features.safetensors", "regions.safetensors"} & set(own):
        raise RefusedError("no picture", f"it has {', '.join(sorted(members)) or 'nothing'}")
    for kind in kinds:
        _look(file, own[kind], decode)
    told, captions = _captions(file, members)
    record = None
    if told is None:  # not vlp's own record
        own.pop("json", None)
        texts = [{"id": 1000 * number + i, "text": text} for i, text in enumerate(captions)]
        record = json.dumps({"image_id": number, "filename": f"{tar}/{key}", "captions": texts}).encode()
    row = [len(captions)] + [-1] * (2 * len(SUFFIXES))
    for suffix, member in own.items():
        if suffix in SUFFIXES:
            place = 1 + 2 * SUFFIXES.index(suffix)
            row[place : place + 2] = [member.offset, member.size]
    return row, record


def _look(file: Any, member: Member, decode: bool) -> None:
    if member.size > MEMBER_BYTES:
        raise RefusedError("picture too large", f"{member.size} bytes")
    if not member.size:
        raise RefusedError("empty picture")
    if decode:
        from vlp.data.images import decode as decoded

        try:
            decoded(_read(file, member))
        except ValueError as error:
            raise RefusedError("undecodable picture", reason(error)) from error


def _captions(file: Any, members: dict[str, Member]) -> tuple[dict[str, Any] | None, list[str]]:
    """The record where it is vlp's own, and the captions: of the record, the txt, or "caption" of the json."""
    told: Any = {}
    if any(members[kind].size > TEXT_BYTES for kind in ("txt", "json") if kind in members):
        raise RefusedError("caption too long", f"a text of over {TEXT_BYTES} bytes")
    if "json" in members:
        try:
            told = json.loads(_read(file, members["json"]))
        except ValueError as error:
            raise RefusedError("unreadable json", str(error)) from error
    if _is_own(told):
        texts = [caption["text"] for caption in told["captions"]]
    elif "txt" in members:
        told, texts = None, [_read(file, members["txt"]).decode("utf-8", "surrogateescape")]
    else:
        text = told.get("caption") if isinstance(told, dict) else None
        told, texts = None, text if isinstance(text, list) else [text]
    faults = [fault for text in texts if (fault := caption_fault(text))]
    if faults or not texts:
        raise RefusedError("bad caption", f"it {faults[0]}" if faults else "none")
    return told, [text.strip() for text in texts]


def _is_own(told: Any) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("image_id"), int):
        return False
    captions = told.get("captions")
    return isinstance(captions, list) and all(isinstance(c, dict) and {"id", "text"} <= set(c) for c in captions)


def _read(file: Any, member: Member) -> bytes:
    return os.pread(file.fileno(), member.size, member.offset)


def _write(path: Path, made: dict[str, Made]) -> dict[str, Any]:
    """The files beside a tar, each written beside and renamed; the tar's entry in the index."""
    records = {key: record for key, (_, record) in made.items() if record is not None}
    if records and len(records) < len(made):
        # One column holds the places of all records, so they lie in one file: the own ones are copied.
        with open(path, "rb") as file:
            for key, (row, record) in made.items():
                place = 1 + 2 * SUFFIXES.index("json")
                records[key] = record or os.pread(file.fileno(), row[place + 1], row[place])
    entry: dict[str, Any] = {"file": path.name, "samples": len(made), "captions": sum(r[0] for r, _ in made.values())}
    entry |= _described(path)
    if records:
        entry["records"] = _write_records(path.with_suffix(".records.tar"), made, records)
    table = np.array([row for row, _ in made.values()], dtype=np.int64)
    place = path.with_suffix(".index.npy")
    part = place.with_name(f"{place.name}.part")
    with open(part, "wb") as out:
        np.save(out, table, allow_pickle=False)
    os.replace(part, place)
    write_checksums(path, _checksums(path, made, records))
    return entry | {"checksums": KIND}


def _checksums(path: Path, made: dict[str, Made], records: dict[str, bytes]) -> list[list[int]]:
    """CRC-32 of every member that the rows name."""
    found = []
    with open(path, "rb") as file:
        for key, (row, _) in made.items():
            own = {SUFFIXES.index("json"): records[key]} if key in records else {}
            places = zip(row[1::2], row[2::2], strict=True)
            data = [own.get(i) or _bytes(file, offset, size) for i, (offset, size) in enumerate(places)]
            found.append([zlib.crc32(member) for member in data])  # 0 of nothing
    return found


def _bytes(file: Any, offset: int, size: int) -> bytes:
    return os.pread(file.fileno(), size, offset) if offset >= 0 else b""


def _write_records(path: Path, made: dict[str, Made], records: dict[str, bytes]) -> dict[str, Any]:
    part, place = path.with_name(f"{path.name}.part"), 1 + 2 * SUFFIXES.index("json")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, (row, _) in made.items():
            info = tarfile.TarInfo(f"{key}.json")
            info.size, info.mode = len(records[key]), 0o644
            row[place : place + 2] = [tar.offset + tarfile.BLOCKSIZE, info.size]
            tar.addfile(info, io.BytesIO(records[key]))
    os.replace(part, path)
    return {"file": path.name, **_described(path)}


def _described(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
