"""Figures of a set are those of counting by hand, and the page holds what it shows."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.language import language_of
from data_tools.stats import quantile
from data_tools.stats_page import MOST_BARS, binned
from tests.data.conftest import jpeg, record
from vlp import cli

Make = Callable[..., Path]


def stats(folder: Path, *extra: str) -> dict[str, Any]:
    assert cli.main(["data", "stats", str(folder), "--workers", "1", *extra]) == 0
    report: dict[str, Any] = json.loads((folder / "stats.json").read_text())
    return report


def varied(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
    texts = [["A dog, and a dog."], ["ein Hund und eine Katze", "собака бежит"], ["<script>alert(1)</script>"] * 2][
        i % 3
    ]
    return {"jpg": jpeg(i, (40 + 10 * (i % 2), 30)), "json": record(i, texts)}


def test_figures_are_those_of_counting(make_shards: Make, capsys: pytest.CaptureFixture[str]) -> None:
    report = stats(make_shards(count=6, change=varied))
    assert (report["pictures"], report["captions"]) == (6, 10)
    assert report["caption_lengths"] == {"1": 4, "2": 2, "5": 4}
    assert report["captions_per_picture"] == {"1": 2, "2": 4}
    assert report["captions_repeated_in_a_picture"] == 2
    assert report["commonest_words"]["dog"] == 4
    assert (report["words"], report["vocabulary"]) == (28, 11)
    assert report["languages"] == {"english": 2, "german": 2, "cyrillic": 2, "unknown": 4}
    assert report["sizes"] == {"40x30": 3, "50x30": 3}
    assert report["shorter_sides"] == {"30": 6}
    assert report["width_over_height"] == {"1.3": 3, "1.7": 3}
    assert report["kinds"] == {"jpg": 6}
    assert "vocabulary" in capsys.readouterr().out


class Page(HTMLParser):
    """Tags of a page, checked to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_fetches_nothing_and_runs_nothing(make_shards: Make) -> None:
    folder = make_shards(count=6, change=varied)
    stats(folder)
    text = (folder / "stats.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("img") == 6
    assert page.tags.count("svg") == 8
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)" in text
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)


def test_bad_samples_are_counted_and_passed_over(make_shards: Make) -> None:
    folder = make_shards(count=5, change=lambda i, members: members | ({"jpg": b"none"} if i == 3 else {}))
    report = stats(folder)
    assert (report["pictures"], report["bad"]) == (4, {"undecodable picture": 1})
    assert (folder / "stats.html").read_text().count("<img ") == 4
    assert stats(folder, "--limit", "2")["pictures"] == 2
    assert not list(folder.glob("*.journal"))


@given(st.dictionaries(st.integers(0, 5000), st.integers(1, 50), min_size=1, max_size=300))
def test_bins_lose_nothing(counts: dict[int, int]) -> None:
    ordered = {str(value): counts[value] for value in sorted(counts)}
    bins = binned(ordered)
    assert sum(count for _, count in bins) == sum(counts.values())
    assert len(bins) <= MOST_BARS + 1
    starts = [int(label) for label, _ in bins if re.fullmatch(r"\d+", label)]
    assert starts == sorted(set(starts))
    flat = sorted(value for value, count in counts.items() for _ in range(count))
    assert quantile(ordered, 0.5) == flat[(len(flat) - 1) // 2]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a dog runs on the beach", "english"),
        ("ein Mann mit einem Hut", "german"),
        ("un chien dans les bois", "french"),
        ("犬が走っている", "cjk"),
        ("собака", "cyrillic"),
        ("12 34 !", "unknown"),
        ("", "unknown"),
    ],
)
def test_languages_are_guessed_by_script_and_small_words(text: str, language: str) -> None:
    assert language_of(text) in (language, "hiragana" if language == "cjk" else language)
