"""Regions from networks and from files of others arrive in shards as the data set reads them; nothing is run."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_tools.bottom_up import GENOME, unique_numbers
from data_tools.detectors import cell_boxes
from data_tools.numpy_msgpack import unpack
from vlp import cli
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.images import normalise
from vlp.data.preflight import preflight
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.types import Regions

Make = Callable[..., Path]
Arrays = dict[str, Any]


def regions(folder: Path, out: Path, *extra: Path | str) -> int:
    return cli.main(["data", "regions", str(folder), str(out), "--workers", "1", *map(str, extra)])


def read(folder: Path) -> dict[str, Regions]:
    """Regions by key, as training reads them."""
    config = DataConfig(image_size=32, use_regions=True)
    dataset = PairDataset(config, folder, Tokenizer.from_folder(folder), train=False)
    preflight(dataset)
    samples = [dataset.sample(0, i) for i in range(len(dataset))]
    return {sample.key: sample.regions for sample in samples if sample.regions is not None}


def made(number: int) -> Arrays:
    """Three regions of a picture of 40 x 30 pixels."""
    random = np.random.default_rng(number)
    corners = random.uniform(0, 0.4, (3, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0.1, 0.5, (3, 2))], axis=1) * [40, 30, 40, 30]
    return {"features": random.normal(size=(3, 8)).astype(np.float32), "boxes": boxes.astype(np.float32)}


def same(found: Regions, number: int) -> None:
    expected = made(number)
    shares = expected["boxes"] / [40, 30, 40, 30]
    torch.testing.assert_close(found.features, torch.from_numpy(expected["features"]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.boxes, torch.from_numpy(shares).float(), rtol=1e-5, atol=1e-5)


def coded(array: Any, kind: str = "<f4") -> bytes:
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes())


# ---------------------------------------------------------------- files of others


def test_bottom_up_attention_files_are_joined_by_number(
    make_shards: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_shards(count=6)
    lines = []
    for i in (5, 3, 1, 0, 2):  # in no order, and one is missing
        told = made(i)
        lines.append(b"\t".join([str(i).encode(), b"40", b"30", b"3", coded(told["boxes"]), coded(told["features"])]))
    (tmp_path / "genome.tsv").write_bytes(b"\n".join(lines) + b"\n")
    assert regions(folder, tmp_path / "out", "--features", tmp_path / "genome.tsv") == 1
    assert "00004: no features of '4.jpg'" in capsys.readouterr().out
    found = read(tmp_path / "out")
    assert list(found) == ["00000", "00001", "00002", "00003", "00005"]
    for key, one in found.items():
        same(one, int(key))
        assert torch.equal(one.class_probs, torch.ones(3, 1))


def test_lxmerts_files_tell_classes(make_shards: Make, tmp_path: Path) -> None:
    folder, told = make_shards(count=1), made(0)
    fields = [b"0", b"30", b"40", coded([3, 1, 4], "<i8"), coded([0.9, 0.5, 0.25]), coded([0, 0, 0], "<i8")]
    fields += [coded([1, 1, 1]), b"3", coded(told["boxes"]), coded(told["features"])]
    (tmp_path / "a.tsv").write_bytes(b"\t".join(fields))
    (tmp_path / "names.txt").write_text("\n".join(f"thing {i}" for i in range(GENOME)))
    words = ("--features", tmp_path / "a.tsv", "--tags", "--classes", tmp_path / "names.txt")
    assert regions(folder, tmp_path / "out", *words) == 0
    found = read(tmp_path / "out")["00000"]
    same(found, 0)
    torch.testing.assert_close(found.class_probs.sum(1), torch.ones(3), rtol=0, atol=2e-3)
    assert found.class_probs.argmax(1).tolist() == [3, 1, 4]
    shards = ShardFolder(tmp_path / "out")
    assert json.loads(shards.read(0, 0, "json") or b"")["tags"] == ["thing 3", "thing 1"]


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def uniter(number: int) -> Arrays:
    """The fields of UNITER's files: boxes as shares, classes with background first."""
    told = made(number)
    probs = np.full((3, GENOME + 1), 1e-4, np.float16)
    probs[:, 0], probs[np.arange(3), [7, 8, 9]] = 0.5, 0.4
    boxes = np.concatenate([told["boxes"] / [40, 30, 40, 30], np.zeros((3, 2))], axis=1)
    return {"features": told["features"].astype(np.float16), "norm_bb": boxes.astype(np.float32), "soft_labels": probs}


def test_a_folder_of_npz(make_shards: Make, tmp_path: Path) -> None:
    folder, files = make_shards(count=3), tmp_path / "npz"
    files.mkdir()
    told = made(0)
    (files / "0.npz").write_bytes(npz(x=told["features"], bbox=told["boxes"], num_bbox=3, image_w=40, image_h=30))
    told = made(1)
    (files / "1.npz").write_bytes(npz(features=told["features"], bbox=told["boxes"]))  # the picture tells its size
    (files / "set_000002.npz").write_bytes(npz(**uniter(2)))
    assert regions(folder, tmp_path / "out", "--features", files, "--drop-pictures") == 0
    assert not ShardFolder(tmp_path / "out").has(0, 0, "jpg")
    config = DataConfig(use_regions=True, use_pictures=False)
    dataset = PairDataset(config, tmp_path / "out", Tokenizer.from_folder(folder), train=False)
    for pair, number in ((0, 0), (1, 1), (3, 2)):
        found = dataset.sample(0, pair).regions
        assert found is not None
        same(found, number)
    assert found.class_probs.shape == (3, GENOME)  # without background
    assert found.class_probs.argmax(1).tolist() == [6, 7, 8]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_arrays_of_objects_are_refused_not_unpickled(
    make_shards: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, files = make_shards(count=1), tmp_path / "npz"
    files.mkdir()
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    (files / "0.npz").write_bytes(npz(features=trap, boxes=trap))
    assert regions(folder, tmp_path / "out", "--features", files) == 1
    assert "allow_pickle=False" in capsys.readouterr().out
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_an_lmdb_of_uniter(make_shards: Make, tmp_path: Path, compressed: bool) -> None:
    import lmdb
    import msgpack

    folder, files = make_shards(count=2), tmp_path / "lmdb"
    with lmdb.open(str(files), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for i in range(2):
            data = npz(**uniter(i)) if compressed else msgpack.packb(uniter(i), default=packed, use_bin_type=True)
            transaction.put(f"set_{i:09d}.npz".encode(), data)
        transaction.put(b"__keys__", b"[]")
    assert regions(folder, tmp_path / "out", "--features", files) == 0
    for number, found in enumerate(read(tmp_path / "out").values()):
        same(found, number)


def packed(array: Any) -> dict[bytes, Any]:
    """An array as msgpack_numpy packs it."""
    return {
        b"nd": True,
        b"type": array.dtype.str,
        b"kind": b"",
        b"shape": array.shape,
        b"data": array.tobytes(),
    }


@pytest.mark.parametrize(
    "field",
    [
        {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": (1,), b"data": b"cos\nsystem\n(S'true'\ntR."},
        {b"nd": True, b"type": "|O", b"kind": b"", b"shape": (1,), b"data": b"12345678"},
        {b"nd": True, b"type": [["a", "<f4"]], b"kind": b"V", b"shape": (1,), b"data": b"1234"},
        {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": (7,), b"data": b"1234"},
        {b"nd": True, b"type": "<f4"},
    ],
)
def test_packed_objects_are_refused(field: Any) -> None:
    import msgpack

    with pytest.raises(ValueError, match="no packed arrays"):
        unpack(msgpack.packb({"features": field}))
    with pytest.raises(ValueError, match="no packed dict"):
        unpack(msgpack.packb([1, 2]))
    with pytest.raises(ValueError, match="no packed arrays"):
        unpack(b"\xc1")


def test_numbers_join_only_where_one_name_has_them() -> None:
    assert unique_numbers(["train_1", "val_1", "val_2", "other"]) == {2: "val_2"}


def test_an_interrupted_join_goes_on(make_shards: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools import regions as module

    folder, files, real = make_shards(count=10), tmp_path / "npz", module.attach_features
    files.mkdir()
    for i in range(10):
        (files / f"{i}.npz").write_bytes(npz(**uniter(i)))

    def watched(number: int, **options: Any) -> Any:
        if number == 6:
            raise KeyboardInterrupt
        return real(number, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "attach_features", watched)
        assert regions(folder, tmp_path / "out", "--features", files) == 130
    first = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    assert regions(folder, tmp_path / "out", "--features", files) == 0
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == first
    assert ShardFolder(tmp_path / "out").num_captions == ShardFolder(folder).num_captions
    assert regions(folder, tmp_path / "out", "--features", files, "--drop-pictures") == 2


# ---------------------------------------------------------------- networks


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Random weights of a small network of timm, in a file."""
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_cells_of_a_grid_are_regions(make_shards: Make, tmp_path: Path, network: Path) -> None:
    import timm
    from safetensors.torch import load_file

    folder = make_shards(count=5, change=lambda i, m: m | ({"jpg": b"none"} if i == 3 else {}))
    (tmp_path / "names.txt").write_text("\n".join(f"thing {i}" for i in range(1000)))
    words = ("--grid", "test_efficientnet", "--weights", network, "--image-size", "96", "--batch-size", "2")
    tags = ("--tags", "--classes", tmp_path / "names.txt", "--tag-threshold", "0")
    assert regions(folder, tmp_path / "out", *words, *tags, "--max-bad-share", "0.5") == 0
    found = read(tmp_path / "out")
    assert list(found) == ["00000", "00001", "00002", "00004"]
    model = timm.create_model("test_efficientnet").eval()
    model.load_state_dict(load_file(network))
    config = DataConfig(image_size=96, mean=model.default_cfg["mean"], std=model.default_cfg["std"])
    shown = PairDataset(config, tmp_path / "out", Tokenizer.from_folder(folder), train=False).sample(0, 0)
    assert shown.image is not None
    with torch.no_grad():
        whole = model.forward_features(normalise(shown.image, config)[None])[0]
    first = found["00000"]
    torch.testing.assert_close(first.features, whole.flatten(1).T, rtol=1e-2, atol=1e-2)
    assert len(first.boxes) == whole.shape[1] * whole.shape[2]
    with torch.no_grad():  # the head is linear behind the pooling, so the mean cell says what the picture says
        said = (first.features @ model.classifier.weight.T + model.classifier.bias).softmax(1)
    torch.testing.assert_close(first.class_probs, said, rtol=2e-2, atol=1e-4)
    record_ = json.loads(ShardFolder(tmp_path / "out").read(0, 0, "json") or b"")
    assert record_["tags"]
    assert all(tag.startswith("thing ") for tag in record_["tags"])


def test_boxes_of_cells_tile_the_picture() -> None:
    boxes = cell_boxes(2, 4)
    assert boxes[0].tolist() == [0, 0, 0.25, 0.5]
    assert boxes[-1].tolist() == [0.75, 0.5, 1, 1]
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() == pytest.approx(1)


@pytest.mark.slow
def test_detections_are_regions(make_shards: Make, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    save_file(model.state_dict(), tmp_path / "d.safetensors")
    folder = make_shards(count=2)
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    words = ("--detector", name, "--weights", tmp_path / "d.safetensors", "--threshold", "0", "--top", "7")
    tags = ("--tags", "--classes", tmp_path / "names.txt", "--tag-threshold", "0")
    assert regions(folder, tmp_path / "out", *words, *tags) == 0
    for found in read(tmp_path / "out").values():
        assert found.features.shape == (7, 1024)
        torch.testing.assert_close(found.class_probs.sum(1), torch.ones(7), rtol=0, atol=5e-3)
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert regions(folder, tmp_path / "none", *words[:-3], "1", "--limit", "1") == 0
    (whole,) = read(tmp_path / "none").values()  # nothing is that sure: the whole picture stands in
    assert whole.boxes.tolist() == [[0, 0, 1, 1]]


def test_wrong_requests_say_what_to_do(
    make_shards: Make, tmp_path: Path, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_shards(count=1)
    for words, message in (
        (("--grid", "test_efficientnet"), "--weights is missing"),
        (("--grid", "test_efficientnet", "--weights", tmp_path / "x.pth"), "could run code when read"),
        (("--grid", "test_resnet", "--weights", network), "does not fit the model"),
        (("--detector", "fasterrcnn_x", "--weights", network), "choose of fasterrcnn_"),
        (("--detector", "fasterrcnn_resnet50_fpn", "--weights", network), "is no Faster R-CNN"),
        (("--grid", "test_vit", "--weights", network), "does not fit the model"),
        (("--grid", "test_efficientnet", "--weights", network, "--tags"), "--tags needs --classes"),
        (("--features", tmp_path / "gone.tsv"), "gone.tsv does not exist"),
    ):
        assert regions(folder, tmp_path / "out", *words) == 2, words
        assert message in capsys.readouterr().err
    (tmp_path / "bad.tsv").write_bytes(b"0\tone\tcolumn too few\n")
    assert regions(folder, tmp_path / "out2", "--features", tmp_path / "bad.tsv") == 1
    assert "3 columns; bottom-up attention's files have 6" in capsys.readouterr().out
