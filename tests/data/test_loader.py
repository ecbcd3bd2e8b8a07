"""The loader: the same global batches for any ranks, workers and restarts; bad samples counted, never silent."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.data.conftest import jpeg, record
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.data.loader import TrainLoader
from vlp.data.reading import Read
from vlp.data.tokenizer import Tokenizer
from vlp.types import Batch

Make = Callable[..., Path]


def loader(
    folder: Path, workers: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1, **data: object
) -> TrainLoader:
    settings = {"image_size": 16, "batch_size": 12, "crop_scale": (0.5, 1.0), "flip": True, "workers": workers}
    config = DataConfig(**(settings | data))  # type: ignore[arg-type]
    dataset = PairDataset(config, folder, Tokenizer.from_folder(folder), train=True, seed=3)
    return TrainLoader(config, dataset, rank=rank, world=world, seed=3, accumulate=accumulate)


def same(one: Batch, two: Batch) -> bool:
    pairs = [(getattr(one, f.name), getattr(two, f.name)) for f in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_workers_and_restarts_change_nothing(make_shards: Make) -> None:
    folder = make_shards(count=10)
    plain = list(islice(loader(folder).batches(0), 5))
    assert all(same(a, b) for a, b in zip(plain, islice(loader(folder, workers=2).batches(0), 5), strict=True))
    assert all(same(a, b) for a, b in zip(plain[3:], islice(loader(folder).batches(3), 2), strict=True))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (3, 2), (4, 1)])
def test_ranks_and_micro_steps_hold_the_same_global_batch(make_shards: Make, world: int, accumulate: int) -> None:
    folder = make_shards(count=10)
    whole = [b.caption_id.tolist() for b in islice(loader(folder).batches(2), 2)]
    ranks = [
        list(islice(loader(folder, rank=r, world=world, accumulate=accumulate).batches(2), 2 * accumulate))
        for r in range(world)
    ]
    for step in range(2):
        micro = range(step * accumulate, (step + 1) * accumulate)
        joined = [c for m in micro for r in range(world) for c in ranks[r][m].caption_id.tolist()]
        assert joined == whole[step]


def test_a_batch_that_does_not_divide_is_an_error(make_shards: Make) -> None:
    with pytest.raises(DataError, match=r"batch_size=12 does not divide by 5 ranks"):
        loader(make_shards(), world=5)


def test_an_epoch_holds_every_pair_once(make_shards: Make) -> None:
    one = loader(make_shards(count=12, per_shard=5))
    assert one.steps_per_epoch == 2.0
    ids = [c for b in islice(one.batches(0), 2) for c in b.caption_id.tolist()]
    assert len(set(ids)) == len(ids) == 24


@pytest.mark.parametrize("captions", [1, 2, 5])
def test_captions_of_a_picture_come_together_and_take_turns(make_shards: Make, captions: int) -> None:
    folder = make_shards(count=12)
    one = loader(folder, captions=captions, batch_size=12 * captions)  # a step is an epoch
    assert one.steps_per_epoch == 1.0
    seen: dict[int, set[int]] = {}
    for batch in islice(one.batches(0), 24):  # enough for each caption to come first once
        groups = batch.image_id.view(12, captions)
        assert (groups == groups[:, :1]).all()
        assert sorted(groups[:, 0].tolist()) == list(range(12))
        for picture, told in zip(groups[:, 0].tolist(), batch.caption_id.view(12, captions).tolist(), strict=True):
            assert len(set(told)) == min(captions, 1 + picture % 3)  # none twice while others wait
            seen.setdefault(picture, set()).update(told)
    assert all(told == {10 * picture + i for i in range(1 + picture % 3)} for picture, told in seen.items())


@pytest.mark.parametrize(("captions", "block"), [(2, 1), (0, 3), (3, 2)])
def test_any_order_is_the_same_for_workers_restarts_and_ranks(make_shards: Make, captions: int, block: int) -> None:
    folder, order = make_shards(count=10), {"captions": captions, "block": block}
    plain = list(islice(loader(folder, **order).batches(0), 5))
    assert all(same(a, b) for a, b in zip(plain, islice(loader(folder, workers=2, **order).batches(0), 5), strict=True))
    assert all(same(a, b) for a, b in zip(plain[3:], islice(loader(folder, **order).batches(3), 2), strict=True))
    cut = [next(loader(folder, rank=rank, world=4, **order).batches(1)).caption_id for rank in range(4)]
    assert torch.equal(torch.cat(cut), plain[1].caption_id)


def test_pairs_of_one_picture_share_its_row(make_shards: Make) -> None:
    folder = make_shards(count=10)
    batch = next(loader(folder, captions=3).batches(0))
    assert batch.image.shape[0] == 4
    assert batch.image_row.tolist() == [i // 3 for i in range(12)]
    alone = next(loader(folder, captions=3, batch_size=3).batches(0))
    assert torch.equal(alone.image, batch.image[:1])
    assert next(loader(folder).batches(0)).image_row is None  # each pair has an augmentation of its own


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"block": 0}, "data.block=0 1 or more"),
        ({"window": 1000}, "data.window=1000 must be a multiple of 512"),
        ({"length_group": 0}, "data.length_group=0 must be 1 or more"),
        ({"length_group": 4, "captions": 2}, "data.length_group=4 must be .* 1 where data.captions"),
    ],
)
def test_an_order_that_cannot_be_is_an_error(make_shards: Make, order: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        loader(make_shards(), **order)


def test_before_training_a_truncated_picture_is_named(make_shards: Make) -> None:
    folder = make_shards(change=lambda i, m: m | {"jpg": m["jpg"][:-60]} if i == 6 else m)
    with pytest.raises(DataError, match=r"shard-000001\.tar: 00006: undecodable picture.*\n.*max_bad_share"):
        loader(folder)


def test_before_training_a_record_that_is_none_is_named(make_shards: Make) -> None:
    folder = make_shards()
    shard = folder / "shard-000000.tar"
    data = shard.read_bytes()
    broken = record(0, ["a dog a"])
    assert broken in data
    shard.write_bytes(data.replace(broken, broken.replace(b"a dog a", b"       ")))
    with pytest.raises(DataError, match=r"00000: caption without text"):
        loader(folder)


def test_during_training_bad_samples_are_replaced_counted_and_limited(
    make_shards: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_shards(count=10, change=lambda i, m: m | {"jpg": jpeg(i, (64, 64))})
    one = loader(folder, max_bad_share=0.0)
    batches = one.batches(0)
    with open(folder / "shard-000002.tar", "r+b") as file:
        file.truncate(700)  # the last two pictures are gone while the run goes on
    first = next(batches)
    assert len(first) == 12
    lost = sum(one.report().values())
    assert lost > 0
    assert len(caplog.records) == lost
    assert "shard-000002.tar" in caplog.text
    assert set(first.keys) & {"00008", "00009"} == set()
    with pytest.raises(DataError, match="samples were bad"):
        list(islice(batches, 30))


def test_regions_and_features_ride_along(make_shards: Make) -> None:
    def add(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        count = 1 + i % 3
        regions = {
            "features": torch.full((count, 5), float(i)),
            "boxes": torch.zeros(count, 4),
            "class_probs": torch.ones(count, 2) / 2,
        }
        tokens = save({"tokens": torch.full((4, 6), float(i)).half()})
        return members | {"regions.safetensors": save(regions), "features.safetensors": tokens}

    batch = next(loader(make_shards(change=add), use_regions=True, use_features=True).batches(0))
    assert batch.image is None
    assert batch.features.shape == (12, 4, 6)
    assert torch.equal(batch.features[:, 0, 0].long(), batch.image_id)
    assert torch.equal(batch.regions.mask.sum(1), 1 + batch.image_id % 3)
    assert torch.equal(batch.regions.features.sum((1, 2)), 5.0 * batch.image_id * (1 + batch.image_id % 3))


@pytest.mark.parametrize("wanted", ["use_regions", "use_features"])
def test_before_training_a_sample_without_the_tensors_that_are_asked_for_is_named(
    make_shards: Make, wanted: str
) -> None:
    def add(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        tensors = {"features": torch.ones(1, 5), "boxes": torch.zeros(1, 4), "class_probs": torch.ones(1, 2)}
        tokens = {"tokens": torch.ones(4, 6)}
        return members | (
            {"regions.safetensors": save(tensors), "features.safetensors": save(tokens)} if i != 7 else {}
        )

    with pytest.raises(DataError, match=rf"1 of 10 .*\n.*00007: no {wanted[4:]}\.safetensors"):
        loader(make_shards(count=10, change=add), **{wanted: True})


def test_an_evaluation_without_cached_tokens_reads_the_pictures(make_shards: Make) -> None:
    folder = make_shards(count=4)
    config = DataConfig(image_size=16, use_features=True)
    batch = next(EvaluationSet(config, folder, Tokenizer.from_folder(folder)).image_batches(4))
    assert batch.features is None
    assert batch.image.shape == (4, 3, 16, 16)


def test_a_model_of_regions_needs_no_pictures(make_shards: Make) -> None:
    def add(i: int, members: dict[str, bytes]) -> dict[str, bytes]:
        tensors = {
            "features": torch.full((2, 5), float(i)),
            "boxes": torch.zeros(2, 4),
            "class_probs": torch.ones(2, 2),
        }
        return {"json": members["json"], "regions.safetensors": save(tensors)}

    folder = make_shards(count=10, change=add)
    with pytest.raises(DataError, match=r"00000: no picture"):
        loader(folder, use_regions=True)
    batch = next(loader(folder, use_regions=True, use_pictures=False).batches(0))
    assert batch.image is None
    assert torch.equal(batch.regions.features[:, 0, 0].long(), batch.image_id)


def test_pinning_reaches_every_tensor_of_a_batch(make_shards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = next(loader(make_shards(count=4)).batches(0))
    read = Read(batch, []).pin_memory()
    held = [value for f in fields(Batch) if isinstance(value := getattr(read.batch, f.name), torch.Tensor)]
    assert len(held) == 6
    assert all(any(tensor is p for p in pinned) for tensor in held)
    assert same(read.batch, batch)


def test_the_evaluation_set_holds_each_picture_and_caption_once(make_shards: Make) -> None:
    folder = make_shards(count=10)
    whole = EvaluationSet(DataConfig(image_size=16), folder, Tokenizer.from_folder(folder))
    assert (whole.num_images, whole.num_texts) == (10, 19)
    assert whole.text_image.tolist() == [i for i in range(10) for _ in range(1 + i % 3)]
    images = [i for b in whole.image_batches(4) for i in b.image_id.tolist()]
    assert images == list(range(10))
    numbers = [
        (c, i) for b in whole.text_batches(4) for c, i in zip(b.caption_id.tolist(), b.image_id.tolist(), strict=True)
    ]
    assert sorted(numbers) == list(enumerate(whole.text_image.tolist()))
    assert EvaluationSet(DataConfig(image_size=16), folder, Tokenizer.from_folder(folder), limit=3).num_texts == 6


def test_reading_brings_no_compiler_along() -> None:
    """torchvision imports torch's compiler: 160 MB of a process that may need neither."""
    code = "import sys, vlp.data.loader, vlp.data.stream_loader; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"torchvision", "torch._dynamo", "transformers", "accelerate", "scipy", "sympy"} & set(loaded)
