"""Two and three processes give the very report of one, bit by bit, whatever the similarities."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import ranks
from tests.parts import WIDTH, two_stream
from tests.retrieval.conftest import model
from tests.small_run import small_config, write_data
from vlp import cli, training
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.tokenizer import Tokenizer
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.shares import Shares
from vlp.similarity.late import LateInteraction

CASES = [
    EvaluationConfig(k=2, batch_size=2, fold=3),
    EvaluationConfig(first="late", rerank="itm", k=3, batch_size=4, tile_bytes=9000),
    EvaluationConfig(rerank="late", full=True, batch_size=3),
    EvaluationConfig(first="itc", k=0, batch_size=64),  # fewer blocks than processes
]


def system() -> dict[str, object]:
    made = two_stream()
    made["model"].kwargs["similarities"]["late"] = lazy(LateInteraction)(
        image_width=WIDTH, text_width=WIDTH, embed_dim=8
    )
    return made


def reports(folder: Path, shares: Shares) -> list[dict[str, object]]:
    dataset = EvaluationSet(DataConfig(image_size=32), folder, Tokenizer.from_folder(folder))
    made = model(system)
    records = [evaluate(made, dataset, config, progress=False, shares=shares).to_json() for config in CASES]
    return [{k: v for k, v in record.items() if not k.endswith("seconds")} for record in records]


def work(folder: Path, out: Path) -> None:
    dist.init_process_group("gloo")
    Path(f"{out}.{dist.get_rank()}.json").write_text(json.dumps(reports(folder, Shares.of_launch())))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_report(dataset: EvaluationSet, tmp_path: Path, world: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = json.loads(json.dumps(reports(dataset.folder, Shares())))
    finally:
        torch.set_num_threads(threads)
    out = tmp_path / "out"
    ranks.finish(ranks.start(world, out, work, dataset.folder, out), out)
    for rank in range(world):
        assert json.loads(Path(f"{out}.{rank}.json").read_text()) == alone


def command(arguments: list[str]) -> None:
    assert cli.main(["evaluate", *arguments]) == 0


@pytest.mark.slow
def test_the_command_on_two_processes_writes_once_what_one_writes(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", pictures=12)
    config = small_config(data, tmp_path / "run", steps=1, eval_every=0)
    training.run(config)
    arguments = [str(tmp_path / "run"), "--data", str(data), "--k", "3", "--fold", "4", "--batch-size", "3"]
    records = []
    for world in (1, 2):
        out = tmp_path / f"world{world}"
        ranks.finish(ranks.start(world, out, command, [*arguments, "--json", f"{out}.json"]), out)
        record = json.loads(Path(f"{out}.json").read_text())
        records.append({name: value for name, value in record.items() if not name.endswith("seconds")})
        assert "re-ranked k=3, folds of 4" in Path(f"{out}.rank0.txt").read_text()
    assert records[0] == records[1]
    assert "re-ranked" not in (tmp_path / "world2.rank1.txt").read_text()


def test_every_block_belongs_to_one_process() -> None:
    for world in (1, 2, 3, 5):
        owners = [[Shares(rank, world).mine(block) for rank in range(world)] for block in range(7)]
        assert all(sum(row) == 1 for row in owners)


def test_alone_a_block_is_made_and_handed_on() -> None:
    made = list(Shares().exchanged(3, lambda block: torch.full((2,), block), "cpu"))
    assert [m.tolist() for m in made] == [[0, 0], [1, 1], [2, 2]]
