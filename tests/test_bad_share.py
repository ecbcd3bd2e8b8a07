"""Bad samples that one of two ranks meets alone: the share of both decides, on both, at the same step."""

import json
import os
from pathlib import Path

import pytest

from tests import ranks
from tests.small_run import small_config, write_data
from vlp import training
from vlp.data.errors import DataError
from vlp.data.loader import TrainLoader

STEPS = 12


def work(data: str, out: str, limit: float) -> None:
    """A run whose ranks read a copy of the data each; rank 1's loses 12 of 20 pictures when the run has begun."""
    rank, build = int(os.environ["RANK"]), training._loader
    own = Path(f"{data}-{rank}")
    loaders: list[TrainLoader] = []

    def damaged(*arguments: object) -> TrainLoader:
        loaders.append(build(*arguments))  # type: ignore[arg-type]
        for shard in ("shard-000000.tar", "shard-000002.tar") if rank == 1 else ():
            with open(own / shard, "r+b") as file:
                file.truncate(600)
        return loaders[0]

    training._loader = damaged  # type: ignore[assignment]
    config = small_config(own, out, steps=STEPS, checkpoint_every=STEPS, eval_every=0, mfu=False)
    config.data.val = ""
    config.data.max_bad_share = limit
    message = ""
    try:
        training.run(config)
    except DataError as error:
        message = str(error)
    tally = loaders[0].tally
    found = {"message": message, "met": tally.met, "seen": tally.seen}
    Path(f"{out}.found-{rank}").write_text(json.dumps(found))


@pytest.mark.parametrize(("limit", "stops"), [(0.45, False), (0.1, True)])
def test_the_share_of_all_ranks_decides(limit: float, stops: bool, tmp_path: Path) -> None:
    for rank in range(2):
        write_data(tmp_path / f"data-{rank}")
    out = tmp_path / "run"
    ranks.finish(ranks.start(2, out, work, str(tmp_path / "data"), str(out), limit), out)
    well, ill = (json.loads(Path(f"{out}.found-{rank}").read_text()) for rank in range(2))
    assert well["met"] == 0
    assert well["seen"] == ill["seen"]
    met, seen = ill["met"], well["seen"] + ill["seen"]
    if not stops:
        assert met > max(10, limit * ill["seen"])  # by itself the second rank would have stopped
        assert not well["message"]
        assert not ill["message"]
        assert seen == 8 * STEPS
    else:
        for found in (well, ill):
            assert f"{met} of {seen} samples were bad on 2 ranks" in found["message"]
        assert seen < 8 * STEPS
