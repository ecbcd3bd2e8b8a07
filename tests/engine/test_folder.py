"""A run's folder: what is refused, what is cut back, what is recorded."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import torch

from vlp.config import ConfigError
from vlp.engine.checkpoint import save
from vlp.engine.folder import changed_fields, cut_log, find_start, open_folder, record_end
from vlp.engine.provenance import provenance


def test_a_fresh_start_into_a_used_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty: continue that run with --resume"):
        find_start(tmp_path, resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_new_and_empty_folders_start_at_zero_with_and_without_resume(tmp_path: Path) -> None:
    for resume in (False, True):
        assert find_start(tmp_path, resume) is None
        assert find_start(tmp_path / "new", resume) is None
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"run\.out=.*run is a file"):
        find_start(tmp_path / "run", resume=False)


def test_resume_finds_the_newest_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step, tensors={"m.safetensors": {"w": torch.zeros(1)}}, files={}, state={})
    assert find_start(tmp_path, resume=True) == tmp_path / "step-00000010"


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": s, "loss": s / 10}) for s in (1, 2, 3, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 3, "lo')
    cut_log(path, 3)
    assert path.read_text() == "\n".join(lines[:4]) + "\n"


def test_every_start_is_recorded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    open_folder(run, {"steps": 10}, {"command": "first"}, 0)
    open_folder(run, {"steps": 20}, {"command": "second"}, 10)
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert [(s["from_step"], s["command"], s["process"]["pid"]) for s in starts] == [
        (0, "first", os.getpid()),
        (10, "second", os.getpid()),
    ]
    record_end(run, "finished", 20)
    last = json.loads((run / "run.json").read_text())["starts"][-1]
    assert (last["ended"]["state"], last["ended"]["step"]) == ("finished", 20)
    assert json.loads((run / "config.json").read_text()) == {"steps": 20}


def test_changed_fields_are_named_by_their_path() -> None:
    old = {"optim": {"lr": 1, "betas": [0.9, 0.9]}, "run": {"steps": 5}, "teacher": None}
    new = {"optim": {"lr": 2, "betas": [0.9, 0.9]}, "run": {"steps": 5, "seed": 1}, "teacher": {"momentum": 1}}
    assert changed_fields(old, new) == ["optim.lr", "run.seed", "teacher"]
    assert changed_fields(old, old) == []


def test_provenance_names_commit_versions_and_command() -> None:
    record = provenance()
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"] == (
        torch.__version__
    )
    assert record["commit"] is None or len(record["commit"].split("+")[0]) == 40
    assert shlex.split(record["command"]) == sys.argv
    json.dumps(record)
