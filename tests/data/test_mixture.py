"""Mixtures: shares to the pair, each set in its own exact order, ids kept apart."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import DataError
from vlp.data.loader import TrainLoader
from vlp.data.mixture import Mixture
from vlp.data.tokenizer import Tokenizer
from vlp.training import TrainConfig

Make = Callable[..., Path]


class OfLength:
    """As much of a data set as a mixture's order depends on."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.shards = SimpleNamespace(most_open=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 4)), min_size=1, max_size=5), st.integers(1, 3))
def test_an_epoch_holds_each_sets_share_and_every_stretch_nearly_so(sets: list[tuple[int, float]], group: int) -> None:
    turns, passes = zip(*sets, strict=True)
    mixture = Mixture([OfLength(n) for n in turns], list(passes), group)  # type: ignore[misc]
    owners = [mixture.locate(p) for p in range(2 * len(mixture))]
    for number, (count, share) in enumerate(sets):
        mine = [own for owner, own in owners if owner == number]
        assert mine == list(range(len(mine)))  # its own order, on through the epochs
        expected = 2 * max(1, round(share * count / mixture.group)) * mixture.group
        assert len(mine) == expected
        for stop in range(0, len(owners), 7):
            so_far = sum(owner == number for owner, _ in owners[:stop])
            assert abs(so_far - stop * expected / len(owners)) <= len(sets) * mixture.group
    for start in range(0, len(owners), mixture.group):
        assert len({owner for owner, _ in owners[start : start + mixture.group]}) == 1


def loaders(config: DataConfig, **ranks: int) -> TrainLoader:
    words = Tokenizer.from_folder(config.folders[0])
    return TrainLoader(config, Mixture.from_config(config, words, 3), seed=3, **ranks)


@pytest.fixture
def config(make_shards: Make) -> DataConfig:
    one, two = make_shards(count=10, name="one"), make_shards(count=7, name="two")
    return DataConfig(train={str(one): 2, str(two): 0.5}, image_size=16, batch_size=12, crop_scale=(0.5, 1.0))


def test_a_set_is_shown_as_often_as_it_says_and_its_pairs_are_told_apart(config: DataConfig) -> None:
    loader = loaders(config)  # 19 pairs twice, 13 pairs half: 38 + 6
    assert loader.steps_per_epoch == 44 / 12
    seen = Counter(c for batch in islice(loader.batches(0), 22) for c in batch.caption_id.tolist())  # 6 epochs
    first, second = ({c // 2: n for c, n in seen.items() if c % 2 == number} for number in (0, 1))
    assert set(first) == {10 * i + k for i in range(10) for k in range(1 + i % 3)}
    assert set(first.values()) == {12}
    assert set(second) == {10 * i + k for i in range(7) for k in range(1 + i % 3)}
    assert sum(second.values()) == 36
    assert set(second.values()) == {2, 3}  # 36 of 13 pairs


@pytest.mark.parametrize(("captions", "block"), [(0, 1), (2, 1), (0, 2)])
def test_ranks_and_restarts_change_nothing_in_a_mixture(config: DataConfig, captions: int, block: int) -> None:
    config.captions, config.block = captions, block
    whole = [b.caption_id.tolist() for b in islice(loaders(config).batches(0), 6)]
    assert [b.caption_id.tolist() for b in islice(loaders(config).batches(4), 2)] == whole[4:]
    ranks = [list(islice(loaders(config, rank=r, world=3).batches(2), 2)) for r in range(3)]
    assert [[c for r in ranks for c in r[step].caption_id.tolist()] for step in range(2)] == whole[2:4]


def test_sets_of_a_mixture_are_read_in_orders_of_their_own(make_shards: Make) -> None:
    same = {str(make_shards(count=12, name=name)): 1.0 for name in ("one", "two")}
    batch = next(loaders(DataConfig(train=same, image_size=16, batch_size=24)).batches(0))
    first, second = ([c // 2 for c in batch.caption_id.tolist() if c % 2 == number] for number in (0, 1))
    assert first != second


@pytest.mark.parametrize("passes", [0, -1, float("nan"), float("inf")])
def test_passes_that_show_nothing_are_an_error(make_shards: Make, passes: float) -> None:
    with pytest.raises(DataError, match="a number above 0"):
        loaders(DataConfig(train={str(make_shards()): passes}))
    with pytest.raises(DataError, match="names no folder"):
        Mixture.from_config(DataConfig(train={}), Tokenizer.from_folder(make_shards(name="words")))


def pairs(dataset: PairDataset, count: int) -> list[int]:
    return [dataset.at(i).caption_id for i in range(count)]


def test_a_mixture_of_one_is_the_set(make_shards: Make) -> None:
    config = DataConfig(train=str(make_shards()), image_size=16)
    mixture = Mixture.from_config(config, Tokenizer.from_folder(config.folders[0]), 5)
    assert [mixture.at(i).caption_id for i in range(40)] == pairs(mixture.sets[0], 40)


def test_a_mixture_can_be_written_down_and_overridden() -> None:
    from tests.small_run import small_config
    from vlp.config import from_json, override, to_json

    config = override(small_config("one", "out"), ["data.train={'one': 2, 'two': 0.5}"])
    assert config.data.folders == ["one", "two"]
    again = from_json(to_json(config))
    assert isinstance(again, TrainConfig)
    assert again.data.train == {"one": 2, "two": 0.5}
    assert override(again, ["data.train=three"]).data.folders == ["three"]
