"""The page of `vlp data stats`."""

import json
from typing import Any

from data_tools import page as html
from data_tools.stats import summary

MOST_BARS = 60


def page(source: Any, report: dict[str, Any], samples: list[int]) -> str:
    """Figures, plots, words, and these samples of the set."""
    lengths = binned(report["caption_lengths"])
    sides, kilobytes = binned(report["shorter_sides"]), binned(report["kilobytes"])
    ratios = list(report["width_over_height"].items())[:MOST_BARS]
    words = list(report["commonest_words"].items())[:25]
    languages = list(report["languages"].items())[:12]
    parts = [
        html.table(summary(report)),
        html.heading("Captions"),
        html.row(
            [
                html.bars("Words a caption", lengths),
                html.bars("Captions a picture", binned(report["captions_per_picture"])),
            ]
        ),
        html.row(
            [
                html.ranked("Commonest words", words),
                html.ranked("Languages, guessed from script and small words", languages),
            ]
        ),
        html.heading("Pictures"),
        html.row([html.bars("Shorter side in pixels", sides), html.bars("Width over height", ratios)]),
        html.row([html.bars("Kilobytes a picture", kilobytes), html.ranked("Kinds", list(report["kinds"].items()))]),
        html.heading(f"{len(samples)} of the pictures, evenly from the whole set"),
        html.gallery(shown(source, samples)),
    ]
    return html.document(f"{source.folder.name}: what is in it", str(source.folder), parts)


def binned(counts: dict[str, int]) -> list[tuple[str, int]]:
    """At most MOST_BARS bars: values by themselves, or in bins of one width from the first to the 99.5 % one."""
    from data_tools.stats import quantile

    if not counts:
        return []
    values = [int(value) for value in counts]
    last = max(quantile(counts, 0.995), values[0])
    width = -(-(last - values[0] + 1) // MOST_BARS)
    bins = {start: 0 for start in range(values[0], last + 1, width)}
    beyond = 0
    for value, count in counts.items():
        if int(value) > last:
            beyond += count
        else:
            bins[values[0] + (int(value) - values[0]) // width * width] += count
    return [(str(start), count) for start, count in bins.items()] + ([(f"> {last}", beyond)] if beyond else [])


def shown(source: Any, samples: list[int]) -> list[tuple[list[str], list[str]]]:
    """Pictures with their captions; those that cannot be decoded stay away."""
    from vlp.data.shards import PICTURES

    found = []
    for number in samples:
        place = source.locate(number)
        data = next((data for kind in PICTURES if (data := source.read(*place, kind)) is not None), None)
        try:
            texts = [caption["text"] for caption in json.loads(source.read(*place, "json") or b"")["captions"]]
            pictures = [html.picture(data)] if data is not None else []
        except (ValueError, KeyError, TypeError):
            continue
        found.append((pictures, [source.key(*place), *(text[:200] for text in texts[:5])]))
    return found
