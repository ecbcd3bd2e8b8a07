"""Checkpoints under failure: a folder is whole or not there, and damage is seen."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.engine import checkpoint, tensors
from vlp.engine.checkpoint import CheckpointError, list_checkpoints, newest, read_state, resolve, save, verify
from vlp.engine.tensors import read_tensors


def write(run: Path, step: int, keep: int = 0) -> Path:
    weights = {"w": torch.full((5,), float(step))}
    return save(
        run,
        step,
        tensors={"model.safetensors": weights, "optimizer.safetensors": weights},
        files={"config.json": b"{}", "tokenizer.json": b"{}"},
        state={"seed": 7},
        keep=keep,
    )


def value(folder: Path) -> float:
    return float(read_tensors(folder / "model.safetensors")["w"][0])


def test_a_checkpoint_records_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", 100)
    assert folder.name == "step-00000100"
    state = read_state(folder)
    assert (state["step"], state["seed"]) == (100, 7)
    names = {"model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"}
    assert set(state["files"]) == names
    assert {p.name for p in folder.iterdir()} == names | {"state.json"}
    assert not [p for p in folder.iterdir() if p.suffix in (".pt", ".bin", ".pkl", ".pth")]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        write(tmp_path, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000030"]
    assert newest(tmp_path) == tmp_path / "step-00000030"
    assert len(list(tmp_path.iterdir())) == 2


class Fault:
    """Raises at the n-th call of any of the patched functions; counts calls."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return call


def inject(patch: pytest.MonkeyPatch, at: int) -> Fault:
    fault = Fault(at)
    patch.setattr(tensors, "save_file", fault.around(tensors.save_file))
    patch.setattr(os, "fsync", fault.around(os.fsync))
    patch.setattr(os, "replace", fault.around(os.replace))
    patch.setattr(Path, "write_bytes", fault.around(Path.write_bytes))
    patch.setattr(Path, "write_text", fault.around(Path.write_text))
    return fault


def test_a_failed_write_at_any_point_leaves_the_earlier_checkpoint_and_no_half_one(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clean_run = inject(patch, at=0)
        write(tmp_path / "count", 1)
    assert clean_run.calls >= 12  # 2 tensor files, 2 files, state, 6 flushes and the parent's, one move
    for at in range(1, clean_run.calls + 1):
        run = tmp_path / f"run-{at}"
        write(run, 1)
        with pytest.MonkeyPatch.context() as patch:
            inject(patch, at)
            with pytest.raises(CheckpointError, match=r"step-00000002 could not be written .*No space left"):
                write(run, 2)
        found = newest(run)
        assert found is not None
        # Only the flush of the parent folder comes after the move.
        assert value(found) == (2.0 if at == clean_run.calls else 1.0)
        assert not list(run.glob(".*"))
        assert value(write(run, 3)) == 3.0


def test_what_a_kill_leaves_behind_is_no_checkpoint_and_is_cleaned(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000000.removed").mkdir()
    assert newest(tmp_path) == tmp_path / "step-00000001"
    write(tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000001", "step-00000002"}


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def flip(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def lose(folder: Path) -> None:
    (folder / "config.json").unlink()


def tear_state(folder: Path) -> None:
    path = folder / "state.json"
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors is damaged: \d+ bytes instead of"),
        (flip, r"optimizer\.safetensors is damaged: its content"),
        (lose, r"config\.json is missing"),
        (tear_state, r"state\.json cannot be read"),
    ],
)
def test_a_damaged_newest_is_passed_over_and_written_anew(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    with pytest.warns(UserWarning, match=message):
        assert newest(tmp_path) == tmp_path / "step-00000001"
    with pytest.raises(CheckpointError, match=message):
        verify(tmp_path / "step-00000002")
    assert value(write(tmp_path, 2)) == 2.0
    assert newest(tmp_path) == tmp_path / "step-00000002"


def test_resolve_takes_a_checkpoint_or_the_newest_of_a_run(tmp_path: Path) -> None:
    write(tmp_path / "run", 1)
    write(tmp_path / "run", 2)
    assert resolve(tmp_path / "run" / "step-00000001") == tmp_path / "run" / "step-00000001"
    assert resolve(str(tmp_path / "run")) == tmp_path / "run" / "step-00000002"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("weights")])
def test_resolve_names_what_is_no_checkpoint(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "thing")
    with pytest.raises(CheckpointError, match="thing is no checkpoint: give a folder"):
        resolve(tmp_path / "thing")


def test_no_run_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path / "nowhere") is None
    assert json.loads((write(tmp_path, 3) / checkpoint.STATE).read_text())["step"] == 3
