"""A contact sheet: one row a sentence, its hits from left to right, as a PNG to look at."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from vlp.retrieval.find import Hit
from vlp.retrieval.pictures import Pictures

CELL, GAP, MARGIN = 176, 10, 16
TITLE, LABEL = 22, 14  # heights of letters
INK, GREY, PAPER = (24, 24, 24), (110, 110, 110), (255, 255, 255)
NARROWEST = 640

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(sentences: Sequence[str], hits: Sequence[Sequence[Hit]], pictures: Pictures) -> Image.Image:
    """The sheet as a picture. Each thumbnail keeps its shape; below it stand rank, score and name."""
    columns = max(len(row) for row in hits)
    width = max(2 * MARGIN + columns * (CELL + GAP) - GAP, NARROWEST)
    title, label = ImageFont.load_default(TITLE), ImageFont.load_default(LABEL)
    titles = [wrap(f"“{sentence}”", title, width - 2 * MARGIN) for sentence in sentences]
    heights = [len(lines) * (TITLE + 6) + 6 + CELL + 2 * (LABEL + 4) + 2 * GAP for lines in titles]
    sheet = Image.new("RGB", (width, sum(heights) + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for lines, row, height in zip(titles, hits, heights, strict=True):
        for i, line in enumerate(lines):
            draw.text((MARGIN, top + i * (TITLE + 6)), line, INK, title)
        cells = top + len(lines) * (TITLE + 6) + 6
        for i, hit in enumerate(row):
            left = MARGIN + i * (CELL + GAP)
            sheet.paste(thumbnail(pictures.read(hit.number)), (left, cells))
            draw.text((left, cells + CELL + 3), f"{i + 1}   {score_text(hit)}", INK, label)
            draw.text((left, cells + CELL + LABEL + 7), shorten(hit.name, label, CELL), GREY, label)
        top += height
    return sheet


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Write the PNG beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    sheet.save(part, "PNG")
    os.replace(part, path)


def thumbnail(picture: Tensor) -> Image.Image:
    """(3, height, width) uint8 to CELL x CELL pixels, padded in grey."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    return ImageOps.pad(image, (CELL, CELL), Image.Resampling.BICUBIC, color=(238, 238, 238))


def score_text(hit: Hit) -> str:
    """What a hit scored, for people: cosine, and the fused log-odds with its sign."""
    parts = [] if hit.cosine is None else [f"cos {hit.cosine:.3f}"]
    return "  ".join(parts + ([] if hit.match is None else [f"match {hit.match:+.1f}"]))


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than `width` pixels; a single longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shorten(name: str, font: Font, width: int) -> str:
    """The end of a name, as much as fits."""
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(f"...{name}") > width:
        name = name[1:]
    return f"...{name}"
