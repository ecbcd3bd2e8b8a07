"""Reading tars header by header: what tarfile reads where all is well, and what is left where it is not."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.tars import BLOCK, by_sample, scan

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/\n", exclude_categories=["Cs"]), min_size=1)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def write(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            tar.addfile(info, io.BytesIO(data))
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES.map(lambda n: n * 40), st.binary(max_size=1200)), max_size=6), FORMATS)
def test_members_are_those_of_tarfile(tmp_path: Path, members: list[tuple[str, bytes]], kind: int) -> None:
    if kind == tarfile.USTAR_FORMAT:
        members = [(f"{i}.json", data) for i, (_, data) in enumerate(members)]
    path = write(tmp_path / "a.tar", members, kind)
    whole, found = path.read_bytes(), scan(path)
    assert found.faults == []
    with tarfile.open(path) as tar:
        theirs = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [(m.name, m.offset, m.size) for m in found.members] == theirs
    assert [whole[m.offset : m.offset + m.size] for m in found.members] == [data for _, data in members]


def ten(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tar", [(f"{i}.txt", bytes([i + 1]) * 700) for i in range(10)])


def test_behind_a_corrupt_header_the_search_goes_on(tmp_path: Path) -> None:
    path = ten(tmp_path)
    data = bytearray(path.read_bytes())
    data[3 * 3 * BLOCK + 10] ^= 0xFF  # the header of the fourth
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 3  # what others make of it, without a word
    found = scan(path)
    assert [m.name for m in found.members] == [f"{i}.txt" for i in range(10) if i != 3]
    assert found.faults == [f"bytes {9 * BLOCK} to {12 * BLOCK} hold no tar header: damaged"]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, 7 * BLOCK, 8 * BLOCK + 5])
def test_a_cut_loses_only_what_is_behind_it(tmp_path: Path, size: int) -> None:
    path = ten(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    found = scan(path)
    assert [m.name for m in found.members] == [f"{i}.txt" for i in range(size // (3 * BLOCK))]
    assert found.faults


def test_links_are_named_and_joined_tars_are_read_on(tmp_path: Path) -> None:
    one, two = ten(tmp_path), tmp_path / "b.tar"
    with tarfile.open(two, "w") as tar:
        link = tarfile.TarInfo("x.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("empty.txt"))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    found = scan(one)
    assert [m.name for m in found.members] == [*(f"{i}.txt" for i in range(10)), "empty.txt"]
    assert found.faults == ["'x.jpg' is a link or a device, no file: left out"]


def test_samples_are_grouped_as_webdataset_does_and_repeats_are_named(tmp_path: Path) -> None:
    names = ["a/x.jpg", "a/x.truth.json", "b/x.jpg", "a/x.JPG", "y.txt"]
    samples, repeated = by_sample(scan(write(tmp_path / "a.tar", [(n, b"1") for n in names])).members)
    assert {key: sorted(kinds) for key, kinds in samples.items()} == {
        "a/x": ["jpg", "truth.json"],
        "b/x": ["jpg"],
        "y": ["txt"],
    }
    assert repeated == ["'a/x.JPG' is there twice: the first counts"]
