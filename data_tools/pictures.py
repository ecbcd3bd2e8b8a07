"""A picture's bytes as they are stored: unchanged where they can be, else encoded anew."""

import io
import re

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def encode(data: bytes, resize: int | None = None, kind: str | None = None, quality: int = 95) -> tuple[str, bytes]:
    """Kind and bytes to store: as they are, or shrunk to a shorter side of `resize`, or as another `kind` (jpg, webp).

    Kinds other than JPEG, PNG and WebP become JPEG. What is encoded anew is upright and RGB.
    """
    from PIL import Image, ImageOps

    picture = Image.open(io.BytesIO(data))
    stored = KINDS.get(picture.format or "")
    if stored and (resize is None or min(picture.size) <= resize) and kind in (None, stored):
        return stored, data
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    if resize is not None and min(picture.size) > resize:
        share = resize / min(picture.size)
        size = (round(picture.width * share), round(picture.height * share))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    if kind == "webp":
        picture.save(out, "WEBP", quality=quality)
        return "webp", out.getvalue()
    picture.save(out, "JPEG", quality=quality)
    return "jpg", out.getvalue()


def reason(error: Exception) -> str:
    """An error's text without the address of the object in memory, which would differ from run to run."""
    return re.sub(r" <_io\.BytesIO object at \w+>", "", str(error))
