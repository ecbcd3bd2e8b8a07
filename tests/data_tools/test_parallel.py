"""Work by several processes: in order, resumable at any line of the journal, and no silence when a process dies."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.parallel import in_order, resumed
from vlp.data.errors import DataError

OPTIONS: dict[str, Any] = {"workers": 1, "name": "test"}


def doubled(number: int) -> int:
    """Even numbers take longer, so that results come out of order."""
    time.sleep(0.002 * (number % 2 == 0))
    return 2 * number


def fatal(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wrong(number: int) -> int:
    if number == 5:
        raise ValueError("five")
    return number


@pytest.mark.slow
def test_several_processes_keep_the_order() -> None:
    for chunk in (1, 3):
        found = in_order(doubled, range(50), workers=3, name="test", chunk=chunk, done=7)
        assert list(found) == [2 * i for i in range(7, 50)]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_command() -> None:
    with pytest.raises(DataError, match="a process was killed, most likely for memory; run again with fewer --workers"):
        list(in_order(fatal, range(9), workers=2, name="test"))


@pytest.mark.slow
def test_errors_of_a_process_arrive() -> None:
    with pytest.raises(ValueError, match="five"):
        list(in_order(wrong, range(9), workers=2, name="test"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(0, 12))
def test_a_journal_cut_anywhere_is_gone_on_with(tmp_path: Path, cut: int, count: int) -> None:
    journal, seen = tmp_path / "journal", []
    journal.unlink(missing_ok=True)
    units = list(range(count))
    whole = list(resumed(doubled, units, journal=journal, settings={"a": 1}, **OPTIONS))
    text = journal.read_text()
    journal.write_text(text[:cut])

    def watched(number: int) -> int:
        seen.append(number)
        return doubled(number)

    assert list(resumed(watched, units, journal=journal, settings={"a": 1}, **OPTIONS)) == whole
    kept = max(text[:cut].count("\n") - 1, 0)  # whole lines, without the settings
    assert seen == units[kept:]
    assert journal.read_text() == text


def test_a_journal_of_other_settings_is_begun_anew(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    list(resumed(doubled, [1, 2], journal=journal, settings={"a": 1}, **OPTIONS))
    assert list(resumed(doubled, [3], journal=journal, settings={"a": (2,)}, **OPTIONS)) == [6]
    assert [json.loads(line) for line in journal.read_text().splitlines()] == [{"a": [2]}, 6]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written .*; say where the report goes"):
        list(resumed(doubled, [1], journal=tmp_path / "file" / "journal", settings={}, **OPTIONS))
