"""Curves of runs as a picture: one panel a metric, one colour a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vlp.engine.runs import RunRecord

WIDTH, HEIGHT, COLUMNS, MOST = 520, 300, 3, 12
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 34, 30
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
RATES = ("grad_norm", "lr", "samples_per_second", "mfu")  # after the losses
NO_PANEL = ("step", "step_ms", "data_wait", "memory_gb", "bad_samples", "slowest_rank", "slowest_rank_ms")
Curve = list[tuple[int, float]]


def draw(runs: Sequence[RunRecord], out: Path) -> None:
    """Write the panels of what the runs have logged as PNG: losses first, then rates, then R@1."""
    names = panels(runs)
    rows = math.ceil(len(names) / COLUMNS)
    legend = 24 * len(runs) + 16
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT + legend), "white")
    pen = ImageDraw.Draw(sheet)
    for i, run in enumerate(runs):
        pen.line([(16, 20 + 24 * i), (46, 20 + 24 * i)], fill=_colour(i), width=4)
        text = f"{run.path}: {run.state()}, step {run.step} of {run.steps}"
        pen.text((56, 20 + 24 * i), text, fill="black", font=_font(15), anchor="lm")
    for i, name in enumerate(names):
        corner = (i % COLUMNS * WIDTH, legend + i // COLUMNS * HEIGHT)
        _panel(pen, corner, name, [run.curve(name) for run in runs])
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def panels(runs: Sequence[RunRecord]) -> list[str]:
    """The metrics to draw, at most twelve."""
    training = {name: None for run in runs for line in run.lines if "loss" in line for name in line}
    recalls = {name: None for run in runs for line in run.lines for name in line if name.endswith("R@1")}
    losses = [name for name in training if name not in (*RATES, *NO_PANEL, "loss")]
    rates = [name for name in RATES if name in training]
    room = max(MOST - 1 - len(recalls) - len(rates), 3)
    return ["loss", *losses[:room], *rates, *recalls][:MOST] if training else list(recalls)[:MOST]


def smooth(curve: Curve) -> Curve:
    """Each value averaged with its neighbours, a fortieth of the curve to either side."""
    reach = len(curve) // 40
    means = []
    for i, (step, _) in enumerate(curve):
        near = curve[max(i - reach, 0) : i + reach + 1]
        means.append((step, sum(value for _, value in near) / len(near)))
    return means


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two others."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    stride = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / stride - 1e-9)
    return [stride * i for i in range(first, math.floor(high / stride + 1e-9) + 1)]


def _panel(pen: Any, corner: tuple[int, int], name: str, curves: list[Curve]) -> None:
    finite = [[(s, v) for s, v in curve if math.isfinite(v)] for curve in curves]
    points = [point for curve in finite for point in curve]
    x, y = corner
    box = (x + LEFT, y + TOP, x + WIDTH - RIGHT, y + HEIGHT - BOTTOM)
    pen.text((x + LEFT, y + TOP - 12), name, fill="black", font=_font(16), anchor="lm")
    if not points:
        return
    spans = [(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in (0, 1)]
    (left, right), (low, high) = [(a, b) if b > a else (a - 0.5, b + 0.5) for a, b in spans]
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    across, up = (box[2] - box[0]) / (right - left), (box[3] - box[1]) / (high - low)

    def place(step: float, value: float) -> tuple[float, float]:
        return box[0] + (step - left) * across, box[3] - (value - low) * up

    for value in ticks(low, high):
        height = place(left, value)[1]
        pen.line([(box[0], height), (box[2], height)], fill="#e4e4e4")
        pen.text((box[0] - 6, height), f"{value:.4g}", fill="#404040", font=_font(12), anchor="rm")
    for step in ticks(left, right):
        pen.text((place(step, low)[0], box[3] + 6), f"{step:.6g}", fill="#404040", font=_font(12), anchor="mt")
    pen.rectangle(box, outline="#808080")
    for i, curve in enumerate(finite):
        pen.line([place(*point) for point in curve], fill=_pale(_colour(i)))
        pen.line([place(*point) for point in smooth(curve)], fill=_colour(i), width=2)
        if len(curve) <= 40:
            for at in map(lambda point: place(*point), curve):
                pen.ellipse((at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2), fill=_colour(i))


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _pale(colour: str) -> str:
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{(2 * 255 + c) // 3:02x}" for c in channels)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
