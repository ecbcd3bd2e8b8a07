"""The json of a sample, read with distrust: what is no picture's record is a bad sample, never a crash."""

import json
from collections.abc import Callable
from typing import Any

from vlp.data.errors import BadSampleError

MEMBER_BYTES = 64 << 20  # a larger picture or tensor file is refused unread
TEXT_BYTES = 1 << 20  # and so is a larger record
MAX_CHARACTERS = 10_000  # a longer caption is no caption
LARGEST_ID = (1 << 63) - 1


def parse_record(data: bytes | None, place: Callable[[], str]) -> dict[str, Any]:
    """`{"image_id": int, "captions": [{"id": int, "text": str}, ...], ...}`. `place` names the sample for messages.

    Raises BadSampleError where it is none, or where a caption is missing, empty, wrongly encoded or absurdly long.
    """
    if data is None:
        raise BadSampleError("no record", place())
    try:
        record: dict[str, Any] = json.loads(data)
        texts = [caption["text"] for caption in record["captions"]]
        ids = [record["image_id"], *(caption["id"] for caption in record["captions"])]
    except UnicodeDecodeError as error:
        raise BadSampleError("wrong encoding", place(), str(error)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSampleError("unreadable record", place(), f"{type(error).__name__}: {error}"[:200]) from error
    if not all(type(number) is int and -LARGEST_ID <= number <= LARGEST_ID for number in ids):
        raise BadSampleError("unreadable record", place(), "an id is no 64-bit integer")
    for text in texts:
        _check_text(text, place)
    if not texts:
        raise BadSampleError("no caption", place())
    return record


def _check_text(text: object, place: Callable[[], str]) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError("caption without text", place())
    if len(text) > MAX_CHARACTERS:
        raise BadSampleError("caption too long", place(), f"{len(text)} characters, at most {MAX_CHARACTERS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # halves of surrogate pairs, which JSON can write down
        raise BadSampleError("wrong encoding", place(), str(error)) from error
