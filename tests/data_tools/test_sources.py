"""ALBEF's JSON, tables and `datasets` folders become shards with every picture, every caption and every fault."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from tests.data.conftest import jpeg
from vlp import cli
from vlp.data.shards import ShardFolder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six pictures in a folder of a folder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i in range(6):
        (folder / "sub" / f"{i}.jpg").write_bytes(jpeg(i))
    return folder


def run(*words: Path | str) -> int:
    return cli.main(["data", *map(str, words), "--workers", "1"])


def read(folder: Path) -> list[tuple[bytes | None, list[str]]]:
    """Picture and captions of every sample."""
    shards = ShardFolder(folder)
    told = []
    for place in map(shards.locate, range(shards.num_samples)):
        record = json.loads(shards.read(*place, "json") or b"")
        told.append((shards.read(*place, "jpg"), [caption["text"] for caption in record["captions"]]))
    return told


def caption_ids(*folders: Path) -> list[int]:
    return [
        caption["id"]
        for shards in map(ShardFolder, folders)
        for i in range(shards.num_samples)
        for caption in json.loads(shards.read(*shards.locate(i), "json") or b"")["captions"]
    ]


PAIRS = [(i, f"a dog {i} {j}") for i in range(6) for j in range(1 + i % 2)]
EXPECTED = [(jpeg(i), [text for k, text in PAIRS if k == i]) for i in range(6)]


# ---------------------------------------------------------------- ALBEF


def albef(path: Path, entries: list[Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_albef_files_are_joined_and_pictures_gathered(images: Path, tmp_path: Path) -> None:
    one = albef(tmp_path / "1.json", [{"image": f"/old/sub/{i}.jpg", "caption": text} for i, text in PAIRS[:5]])
    rest = [{"image": f"/old/sub/{i}.jpg", "caption": [t for k, t in PAIRS[5:] if k == i]} for i in range(3, 6)]
    two = albef(tmp_path / "2.json", rest)
    assert run("albef", one, two, images, tmp_path / "out", "--strip", "/old/") == 0
    assert read(tmp_path / "out" / "train") == EXPECTED
    assert len(set(caption_ids(tmp_path / "out" / "train"))) == len(PAIRS)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report[0]["pictures"], report[0]["captions"]) == (6, len(PAIRS))


def test_paths_outside_the_folder_are_refused_and_all_that_is_bad_is_named(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    (images / "half.jpg").write_bytes(jpeg(8)[:-70])
    bad = {
        "../secret.jpg": "lies outside",
        str(tmp_path / "secret.jpg"): "lies outside",
        "half.jpg": "cannot be decoded",
        "gone.jpg": "missing",
    }
    entries = [{"image": "sub/0.jpg", "caption": "a dog"}, *({"image": name, "caption": "a dog"} for name in bad)]
    entries += [{"image": "sub/1.jpg", "caption": [None, "a dog", "", "\ud800", "x" * 10_001]}]
    assert run("albef", albef(tmp_path / "a.json", entries), images, tmp_path / "out") == 1
    screen = capsys.readouterr().out
    for name, cause in bad.items():
        assert any(name in line and cause in line for line in screen.splitlines())
    assert "sub/1.jpg: caption 5000 has no text" in screen
    assert "sub/1.jpg: caption 5003 is not UTF-8" in screen
    assert "sub/1.jpg: caption 5004 has 10001 characters, over 10000" in screen
    assert read(tmp_path / "out" / "train") == [(jpeg(0), ["a dog"]), (jpeg(1), ["a dog"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ('{"images": []}', "a Karpathy one is for `vlp data karpathy`"),
        ('[{"image": "a.jpg"}]', r"[0] needs a path as image and a caption"),
    ],
)
def test_other_layouts_are_refused(
    images: Path, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(content)
    assert run("albef", tmp_path / "a.json", images, tmp_path / "out") == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- tables


def write_table(path: Path, names: list[str], rows: list[tuple[Any, ...]]) -> Path:
    if path.suffix == ".parquet":
        columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        parquet.write_table(pyarrow.table(columns), path)
    else:
        with open(path, "w", newline="") as file:
            quoting = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t", quoting=quoting)
            writer.writerows([names, *rows])
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_give_their_rows(images: Path, tmp_path: Path, kind: str) -> None:
    rows = [("x", f"sub/{i}.jpg", text) for i, text in PAIRS]
    table = write_table(tmp_path / f"t.{kind}", ["other", "path", "title"], rows)
    words = ("--path-column", "path", "--caption-column", "title")
    assert run("table", table, images, tmp_path / "out", *words) == 0
    assert read(tmp_path / "out" / "train") == EXPECTED


def test_splits_of_a_table_share_no_number(images: Path, tmp_path: Path) -> None:
    rows = [(f"sub/{i}.jpg", text, "val" if i > 3 else "train") for i, text in PAIRS]
    table = write_table(tmp_path / "t.csv", ["image", "caption", "split"], rows)
    assert run("table", table, images, tmp_path / "out", "--split-column", "split") == 0
    assert read(tmp_path / "out" / "train") + read(tmp_path / "out" / "val") == EXPECTED
    assert len(set(caption_ids(tmp_path / "out" / "train", tmp_path / "out" / "val"))) == len(PAIRS)


def test_quotes_commas_and_wrong_encodings_in_a_csv(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b'\xef\xbb\xbfimage,caption\nsub/0.jpg,"a dog, a ""big"" one"\nsub/1.jpg,caf\xe9\n\nsub/2.jpg,caf\xc3\xa9\n'
    (tmp_path / "t.csv").write_bytes(lines)
    assert run("table", tmp_path / "t.csv", images, tmp_path / "out", "--max-bad-share", "0.5") == 0
    assert "sub/1.jpg: caption 1000 is not UTF-8" in capsys.readouterr().out
    assert read(tmp_path / "out" / "train") == [(jpeg(0), ['a dog, a "big" one']), (jpeg(2), ["café"])]


def test_mistakes_in_a_table_are_named(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "t.csv", ["file", "title"], [("sub/0.jpg", "a dog"), ("sub/1.jpg",)])
    assert run("table", table, images, tmp_path / "out") == 2
    assert "has no column 'image'; it has file, title. Say --path-column" in capsys.readouterr().err
    words = ("--path-column", "file", "--caption-column", "title")
    assert run("table", table, images, tmp_path / "out", *words) == 2
    assert "t.csv: line 3 has 1 columns; mend or drop it" in capsys.readouterr().err
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    assert run("table", tmp_path / "t.parquet", images, tmp_path / "out") == 2
    assert "is no parquet file" in capsys.readouterr().err
    table = write_table(tmp_path / "s.csv", ["image", "caption", "split"], [("sub/0.jpg", "a dog", "../up")])
    assert run("table", table, images, tmp_path / "out", "--split-column", "split") == 2
    assert "split '../up' cannot be a folder's name" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()


# ---------------------------------------------------------------- datasets folders


def rows_of(numbers: range) -> pyarrow.Table:
    pictures = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in numbers]
    return pyarrow.table({"image": pictures, "caption": [EXPECTED[i][1] for i in numbers]})


def save_to_disk(folder: Path, *parts: range) -> Path:
    """The layout of `Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, numbers in zip(names, parts, strict=True):
        table = rows_of(numbers)
        with ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "set" / "train", range(2), range(2, 4))
    save_to_disk(tmp_path / "set" / "test", range(4, 6))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert run("huggingface", tmp_path / "set", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "train") + read(tmp_path / "out" / "test") == EXPECTED
    assert len(set(caption_ids(tmp_path / "out" / "train", tmp_path / "out" / "test"))) == len(PAIRS)
    assert run("huggingface", tmp_path / "set" / "test", tmp_path / "one") == 0
    assert read(tmp_path / "one" / "train") == EXPECTED[4:]


def test_a_snapshot_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    parquet.write_table(rows_of(range(5)), tmp_path / "set/data/train-00000-of-00002.parquet", row_group_size=2)
    parquet.write_table(rows_of(range(5, 6)), tmp_path / "set/data/train-00001-of-00002.parquet")
    assert run("huggingface", tmp_path / "set", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "train") == EXPECTED
    assert run("huggingface", tmp_path / "set", tmp_path / "val", "--splits", "val") == 2


def test_rows_without_a_picture_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pyarrow.table({"image": [jpeg(0), b"text", None], "caption": ["a dog", "a dog", "a dog"]})
    (tmp_path / "set").mkdir()
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    assert run("huggingface", tmp_path / "set", tmp_path / "out") == 1
    screen = capsys.readouterr().out
    assert "train.parquet:1: no picture" in screen
    assert "train.parquet:2: no bytes of a picture in image" in screen
    assert read(tmp_path / "out" / "train") == [(jpeg(0), ["a dog"])]


def test_folders_that_are_none_and_files_that_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert run("huggingface", tmp_path / "none", tmp_path / "out") == 2
    assert "give a `datasets` folder on disk" in capsys.readouterr().err
    folder = save_to_disk(tmp_path / "set", range(3))
    arrow = next(folder.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-900])
    assert run("huggingface", folder, tmp_path / "out") == 2
    assert f"{arrow} cannot be read" in capsys.readouterr().err
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    assert run("huggingface", folder, tmp_path / "out") == 2
    assert "'../x.arrow'" in capsys.readouterr().err


def test_what_the_datasets_library_saves_is_read(tmp_path: Path) -> None:
    import datasets

    told = {"image": [{"bytes": jpeg(i), "path": None} for i in range(6)], "caption": [t for _, t in EXPECTED]}
    made = datasets.Dataset.from_dict(told).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": made.shuffle(seed=0)}).save_to_disk(str(tmp_path / "set"))
    assert run("huggingface", tmp_path / "set", tmp_path / "out") == 0
    assert sorted(read(tmp_path / "out" / "train")) == sorted(EXPECTED)
