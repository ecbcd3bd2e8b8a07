"""Checkpoints written in a thread: the state at the call, whatever becomes of it afterwards."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.engine import checkpoint
from vlp.engine.checkpoint import list_checkpoints, newest, read_state
from vlp.engine.retention import Retention
from vlp.engine.tensors import CheckpointError, read_tensors
from vlp.engine.writer import CheckpointWriter


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds every write back until it is set, so that the state can be changed before a byte is written."""
    opened = threading.Event()
    original = checkpoint.write_tensors

    def write(*args: Any) -> None:
        assert opened.wait(30)
        original(*args)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    yield opened
    opened.set()


def state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    words = torch.arange(6.0).reshape(2, 3)
    return {"words": words, "tied": words, "turned": words.T, "count": torch.tensor(3)}, {"metrics": {"loss": 1.0}}


def test_what_is_written_is_the_state_at_the_call(tmp_path: Path, gate: threading.Event) -> None:
    tensors, record = state()
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    writer = CheckpointWriter(tmp_path, Retention(), asynchronous=True)
    files = {"config.json": b"{}"}
    writer.save(1, tensors={"model.safetensors": tensors}, files=files, state=record)
    for tensor in tensors.values():  # the training goes on at once
        tensor.add_(100)
    record["metrics"]["loss"] = 7.0
    files["config.json"] = b"changed"
    assert newest(tmp_path) is None  # and nothing was written yet
    gate.set()
    writer.wait()
    found = newest(tmp_path)
    assert found is not None
    assert all(torch.equal(t, expected[n]) for n, t in read_tensors(found / "model.safetensors").items())
    assert read_state(found)["metrics"] == {"loss": 1.0}
    assert (found / "config.json").read_bytes() == b"{}"


def test_both_forms_write_the_same_bytes_also_into_memory_that_is_used_again(tmp_path: Path) -> None:
    for step in (1, 2):
        for form in (False, True):
            tensors, record = state()
            tensors["words"].mul_(step)
            run = tmp_path / str(form)
            if step == 1:
                writers = {f: CheckpointWriter(tmp_path / str(f), Retention(), asynchronous=f) for f in (False, True)}
            writers[form].save(step, tensors={"m.safetensors": tensors}, files={}, state=record)
            writers[form].wait()
            assert run.is_dir()
    for step in (1, 2):
        one, other = (checkpoint.checkpoint_path(tmp_path / str(f), step) / "m.safetensors" for f in (False, True))
        assert one.read_bytes() == other.read_bytes()


def test_one_write_at_a_time(tmp_path: Path, gate: threading.Event) -> None:
    tensors, record = state()
    writer = CheckpointWriter(tmp_path, Retention(newest=1), asynchronous=True)
    for step in (1, 2, 3):
        if step == 2:
            gate.set()
        tensors["count"].fill_(step)
        writer.save(step, tensors={"m.safetensors": tensors}, files={}, state=record)
    writer.wait()
    (last,) = list_checkpoints(tmp_path)
    assert int(read_tensors(last / "m.safetensors")["count"]) == 3


def test_a_failed_write_is_told_at_the_next_call_and_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, record = state()
    writer = CheckpointWriter(tmp_path, Retention(), asynchronous=True)
    arguments: dict[str, Any] = {"tensors": {"m.safetensors": tensors}, "files": {}, "state": record}
    writer.save(1, **arguments)
    writer.wait()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        writer.save(2, **arguments)
        with pytest.raises(CheckpointError, match=r"step-00000002 could not be written .*No space left"):
            writer.wait()
    assert newest(tmp_path) == tmp_path / "step-00000001"
    writer.save(3, **arguments)
    writer.wait()
    assert newest(tmp_path) == tmp_path / "step-00000003"
