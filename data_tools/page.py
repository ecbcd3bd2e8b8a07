"""Pages of one file that any browser shows: plots as SVG, pictures inside, no script and nothing fetched."""

import base64
import io
from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 1080px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.row { display: flex; flex-wrap: wrap; gap: 1.6rem; } figure { margin: 0; }
figcaption { font-size: 13px; color: #52606d; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1.1rem; }

.pictures img { max-width: 100%; border-radius: 3px; display: block; margin-bottom: .3rem; }
.note { color: #52606d; } svg text { font: 11px system-ui, sans-serif; fill: #52606d; }
"""
BAR, BARS_WIDTH, BARS_HEIGHT = "#3e7cb1", 480, 180
WIDEST = 48  # pixels of one bar
LEFT, FOOT, HEAD = 8, 24, 18  # around the bars, pixels


def document(title: str, subtitle: str, parts: Sequence[str]) -> str:
    """A page of these parts."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(subtitle)}</p>\n' + "\n".join(parts) + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's title."""
    return f"<h2>{escape(text)}</h2>"


def row(parts: Sequence[str]) -> str:
    """Parts side by side where there is room."""
    return f'<div class="row">{"".join(parts)}</div>'


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns: names and figures."""
    cells = (f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def bars(title: str, counts: Sequence[tuple[str, int]], note: str = "") -> str:
    """A bar a count, upright. Not every label is written where they would touch."""
    most = max((count for _, count in counts), default=0) or 1
    step = min((BARS_WIDTH - 2 * LEFT) / max(len(counts), 1), WIDEST)
    every = max(1, round(44 / step))
    drawn = []
    for i, (label, count) in enumerate(counts):
        height = (BARS_HEIGHT - FOOT - HEAD) * count / most
        x, y = LEFT + i * step, BARS_HEIGHT - FOOT - height
        tip = f"<title>{escape(label)}: {count:,}</title>"
        size = f'width="{max(step - 1, 0.6):.1f}" height="{height:.1f}"'
        drawn.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{BAR}">{tip}</rect>')
        if i % every == 0:
            place = f'x="{x + step / 2:.1f}" y="{BARS_HEIGHT - FOOT + 14}" text-anchor="middle"'
            drawn.append(f"<text {place}>{escape(label)}</text>")
    line = f"M{LEFT} {BARS_HEIGHT - FOOT}H{BARS_WIDTH - LEFT}"
    return (
        f"<figure><figcaption>{escape(title)}{f'. {escape(note)}' if note else ''}</figcaption>"
        f'<svg width="{BARS_WIDTH}" height="{BARS_HEIGHT}" role="img">'
        f'<text x="{LEFT}" y="11">most: {most:,}</text>{"".join(drawn)}'
        f'<path d="{line}" stroke="#9aa5b1"/></svg></figure>'
    )


def ranked(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """A bar a name, lying, the names beside them."""
    most = max((count for _, count in counts), default=0) or 1
    lines = []
    for i, (label, count) in enumerate(counts):
        y, width = 17 * i + 2, 250 * count / most
        tip = f'<text x="{width + 126:.1f}" y="{y + 11}">{count:,}</text>'
        bar = f'<rect x="120" y="{y}" width="{width:.1f}" height="13" fill="{BAR}"/>'
        lines.append(f'<text x="114" y="{y + 11}" text-anchor="end">{escape(label[:18])}</text>{bar}{tip}')
    height = 17 * len(counts) + 4
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg width="{BARS_WIDTH}" height="{height}" role="img">{"".join(lines)}</svg></figure>'
    )


def gallery(entries: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Pictures (as `picture` gives them), one or more to an entry, with lines of text below."""
    figures = []
    for pictures, lines in entries:
        text = "<br>".join(map(escape, lines))
        figures.append(f"<figure>{''.join(pictures)}<figcaption>{text}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>'


def picture(data: bytes, side: int = 200) -> str:
    """A picture inside the page, shrunk. Raises ValueError where it cannot be decoded."""
    from PIL import Image, ImageOps

    from vlp.data.images import decode

    shown = ImageOps.contain(Image.fromarray(decode(data).permute(1, 2, 0).numpy()), (side, side))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=85)
    text = base64.b64encode(out.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{text}" width="{shown.width}" height="{shown.height}" alt="">'
