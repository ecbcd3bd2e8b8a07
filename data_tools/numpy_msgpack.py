"""Arrays that msgpack_numpy packed (UNITER's LMDB), read without that library.

msgpack_numpy unpickles whatever array of objects the file says it holds. Here a file gives numbers or an error.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = "fiub"  # kinds of dtype that are plain numbers


def unpack(data: bytes) -> dict[str, Any]:
    """A packed dict of arrays and numbers. Raises ValueError for anything else, objects above all."""
    import msgpack

    try:
        told = msgpack.unpackb(data, object_hook=_array, raw=False, strict_map_key=False)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"no packed arrays: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"no packed dict, but {type(told).__name__}")
    return {_text(name): value for name, value in told.items()}


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _array(told: dict[Any, Any]) -> Any:
    """The array that a dict describes, the dict itself where it describes none."""
    fields = {_text(name): value for name, value in told.items()}
    if "nd" not in fields:
        return told
    kind = fields["type"]
    if not isinstance(kind, str | bytes) or _text(fields.get("kind", "")) not in ("", "None"):
        raise ValueError("an array of objects or of records, which would have to be unpickled")
    dtype = np.dtype(_text(kind))
    if dtype.kind not in NUMBERS:
        raise ValueError(f"an array of {dtype}, which holds no plain numbers")
    flat: NDArray[Any] = np.frombuffer(fields["data"], dtype)
    return flat.reshape(fields["shape"]) if fields["nd"] else flat[0]
