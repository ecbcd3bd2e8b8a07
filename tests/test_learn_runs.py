"""benchmarks/learn.py: what is measured stays, goes on from a checkpoint, and is measured again where that is asked."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import learn
from data_tools import synthesize
from vlp import training
from vlp.engine.manifest import write_manifest
from vlp.engine.tensors import read_tensors, write_tensors


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn") / "world"
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    asked = f"{folder} --train 64 --val 32 --test 0 --size 48 --things 2 --workers 1"
    assert synthesize.main(parser.parse_args(asked.split())) == 0
    return folder


def run(world: Path, out: Path, *words: str) -> dict[str, Any]:
    """The command with `--json`; what it wrote there."""
    told = [*f"--world {world} --out {out} --only clip --steps 2 --pictures 32 --json {out}.json".split(), *words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["learn", *told])
        learn.main()
    record: dict[str, Any] = json.loads(Path(f"{out}.json").read_text())
    return record


def test_a_measured_system_stays_and_is_measured_again_where_asked(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (first,) = run(world, out)["rows"]
    assert (first["system"], first["steps"]) == ("clip", 2)
    assert 0 <= first["figures"]["retrieval"] <= 1
    place = out / "clip" / learn.LEARNED
    place.write_text(json.dumps(first | {"figures": {"retrieval": 2.0}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "run", lambda *_, **__: pytest.fail("trained again"))
        assert run(world, out)["rows"][0]["figures"] == {"retrieval": 2.0}
        assert run(world, out, "--measure-again")["rows"] == [first]
    assert json.loads(place.read_text()) == first


def test_a_run_that_was_not_measured_goes_on_from_its_checkpoint(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (first,) = run(world, out)["rows"]
    (out / "clip" / learn.LEARNED).unlink()
    (again,) = run(world, out)["rows"]
    assert again["figures"] == first["figures"]  # its last step was kept, so that none was left to take


def test_without_a_checkpoint_nothing_is_measured_again(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, tmp_path / "runs", "--measure-again")["rows"] == []
    assert "no checkpoint" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_rows_of_a_table_are_known(world: Path, tmp_path: Path) -> None:
    row = {"system": "clip", "steps": 7, "figures": {"retrieval": 0.5}}
    (tmp_path / "before.json").write_text(json.dumps({"rows": [row]}))
    assert run(world, tmp_path / "runs", "--known", str(tmp_path / "before.json"))["rows"] == [row]
    assert not (tmp_path / "runs").exists()


def test_a_known_row_gives_way_to_a_checkpoint_that_is_measured_again(world: Path, tmp_path: Path) -> None:
    (first,) = run(world, tmp_path / "runs")["rows"]
    known = {"system": "clip", "steps": 7, "figures": {"retrieval": 0.5}}
    (tmp_path / "before.json").write_text(json.dumps({"rows": [known]}))
    again = ("--measure-again", "--known", str(tmp_path / "before.json"))
    assert run(world, tmp_path / "runs", *again)["rows"] == [first]
    assert run(world, tmp_path / "others", *again)["rows"] == [known]


def test_what_was_published_with_a_pre_trained_network_starts_with_a_small_one(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    asked = argparse.Namespace(world=world, out=out, steps=1, start_steps=2, pictures=32, threads=1)
    asked.measure_again = False
    starting = training.load_weights
    given: list[dict[str, Any]] = []

    def noted(model: Any, folder: Path, **options: Any) -> None:
        starting(model, folder, **options)
        given.append({key: value.clone() for key, value in model.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_weights", noted)
        row = learn.learn("soho", asked)
    source = read_tensors(out / "soho-twins" / "step-00000002" / "model.safetensors", prefix="model.vision.")
    assert len(source) > 20
    assert all(torch.equal(given[0][f"vision.grid.{key}"], value) for key, value in source.items())
    assert "(starts with soho-twins's network)" in learn.shown(row)
    assert (out / "soho-twins" / learn.LEARNED).is_file()


@pytest.mark.parametrize("name", learn.STARTS)
def test_the_parts_that_a_system_starts_with_are_there_and_fit(name: str, tmp_path: Path) -> None:
    asked = argparse.Namespace(world=tmp_path, out=tmp_path, steps=1, start_steps=1, threads=1)
    source, parts = learn.STARTS[name]
    config, model = learn.recipe(source, asked), training.build_task(learn.recipe(name, asked), False).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config.run.seed = 7
    step = tmp_path / source / "step-00000001"
    step.mkdir(parents=True)
    write_tensors(step / "model.safetensors", training.build_task(config, False).state_dict())
    write_manifest(step)
    started = learn.recipe(name, asked)
    learn.start_with(started, tmp_path / source, parts)
    model = training.build_task(started).model
    if started.init:
        training.load_weights(model, step, parts=parts)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    names = [part.partition("=")[0] for part in parts] or ["vision", "fusion.layers", "fusion.norm"]
    assert {key for key in before if key.startswith(tuple(names)) and before[key].std() > 0} <= changed
    assert all(key.startswith(tuple(names)) for key in changed)
