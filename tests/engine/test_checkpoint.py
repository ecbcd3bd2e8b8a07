"""Checkpoints under failure: a folder is whole or not there, and damage is seen."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vlp.engine import checkpoint, tensors
from vlp.engine.checkpoint import CheckpointError, list_checkpoints, newest, read_state, resolve, save, verify
from vlp.engine.manifest import VersionError
from vlp.engine.retention import Retention
from vlp.engine.tensors import read_tensors


def write(run: Path, step: int, keep: int = 0, **state: Any) -> Path:
    weights = {"w": torch.full((5,), float(step))}
    return save(
        run,
        step,
        tensors={"model.safetensors": weights, "optimizer.safetensors": weights},
        files={"config.json": b"{}", "tokenizer.json": b"{}"},
        state={"seed": 7, **state},
        retention=Retention(keep),
    )


def value(folder: Path) -> float:
    return float(read_tensors(folder / "model.safetensors")["w"][0])


def test_a_checkpoint_records_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", 100)
    assert folder.name == "step-00000100"
    state = read_state(folder)
    assert (state["step"], state["seed"]) == (100, 7)
    names = {"model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == names | {"state.json"}
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {p.name for p in folder.iterdir()} == names | {"state.json", "manifest.json"}
    assert not [p for p in folder.iterdir() if p.suffix in (".pt", ".bin", ".pkl", ".pth")]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 4, 30):
        write(tmp_path, step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000030"]
    assert newest(tmp_path) == tmp_path / "step-00000030"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_later_checkpoint_never_costs_a_whole_one(tmp_path: Path) -> None:
    write(tmp_path, 10)
    flip(write(tmp_path, 20))
    write(tmp_path, 15, keep=1)  # the run was resumed at 10
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000015", "step-00000020"]
    with pytest.warns(UserWarning, match="step-00000020"):
        assert newest(tmp_path) == tmp_path / "step-00000015"


def test_the_best_by_a_metric_stays(tmp_path: Path) -> None:
    recalls = {1: 5.0, 2: 9.0, 3: None, 4: 7.0, 5: 6.0}
    for largest, kept in ((True, [2, 5]), (False, [1, 5])):
        run = tmp_path / str(largest)
        for step, recall in recalls.items():
            save(
                run,
                step,
                tensors={},
                files={},
                state={"measured": {} if recall is None else {"recall": recall}},
                retention=Retention(newest=1, best="recall" if largest else "-recall"),
            )
        assert [read_state(p)["step"] for p in list_checkpoints(run)] == kept


def test_one_every_so_many_hours_stays(tmp_path: Path) -> None:
    for step, hours in enumerate([0, 1, 2.5, 3, 4.9, 5, 6]):
        policy = Retention(newest=1, hours=2)
        save(tmp_path, step, tensors={}, files={}, state={"written": 3600 * hours}, retention=policy)
    assert [read_state(p)["step"] for p in list_checkpoints(tmp_path)] == [0, 2, 4, 6]


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
    assert clean_run.calls >= 15  # 2 tensor files, 2 files, state, manifest, 7 flushes and the parent's, one move
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


class ShortDisk:
    """A file system that is full after so many bytes; what fitted is written, as a real one does it."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.written = 0

    def write(self, path: Path, content: bytes) -> int:
        fits = max(self.left - self.written, 0)
        with path.open("wb") as file:
            file.write(content[:fits])
        self.written += len(content)
        if len(content) > fits:
            raise OSError(28, "No space left on device")
        return len(content)


def on_short_disk(patch: pytest.MonkeyPatch, left: int) -> ShortDisk:
    disk = ShortDisk(left)
    patch.setattr(Path, "write_bytes", lambda path, content: disk.write(path, content))
    patch.setattr(Path, "write_text", lambda path, text: disk.write(path, text.encode()))
    patch.setattr(tensors, "save_file", lambda own, path, metadata: disk.write(path, safetensors.torch.save(own)))
    return disk


def test_a_disk_that_fills_up_at_any_of_fifty_points_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = on_short_disk(patch, 1 << 30)
        write(tmp_path / "count", 2)
    for point in range(50):
        run = tmp_path / f"run-{point}"
        write(run, 1)
        with pytest.MonkeyPatch.context() as patch:
            on_short_disk(patch, whole.written * point // 50)
            with pytest.raises(CheckpointError, match="No space left on device"):
                write(run, 2, keep=1)
        assert newest(run) == run / "step-00000001"
        assert value(run / "step-00000001") == 1.0
        assert not list(run.glob(".*"))


FULL = """
import sys, torch
from pathlib import Path
from vlp.engine import checkpoint
from vlp.engine.retention import Retention
from vlp.engine.tensors import CheckpointError, read_tensors
run, failures = Path(sys.argv[1]), []
for step in range(1, 13):  # 200 kB each into 1 MB; a ballast grows beside them
    weights = {"w": torch.full((50_000,), float(step))}
    try:
        checkpoint.save(run, step, tensors={"model.safetensors": weights}, files={}, state={}, retention=Retention(2))
    except CheckpointError as error:
        assert "No space left on device" in str(error), error
        failures.append(step)
    found = checkpoint.newest(run)
    last = max(s for s in range(1, step + 1) if s not in failures)
    assert found == checkpoint.checkpoint_path(run, last), (found, last)
    assert float(read_tensors(found / "model.safetensors")["w"][0]) == last
    (run.parent / f"ballast-{step}").write_bytes(b"x" * min(40_000 * step, 100_000) if step < 6 else b"")
    if step == 9:
        [p.unlink() for p in run.parent.glob("ballast-*")]
print(failures)
"""


@pytest.mark.slow
def test_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    mounted = "mount -t tmpfs -o size=1m none {0} && exec {1} -c {2} {0}/run"
    shell = mounted.format(shlex.quote(str(tmp_path)), shlex.quote(sys.executable), shlex.quote(FULL))
    allowed = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True)
    if allowed.returncode:
        pytest.skip("no file system can be mounted here; the fifty points above stand for it")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    failures = json.loads(done.stdout)
    assert failures  # it was full
    assert max(failures) < 12  # and had room again


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


def tear_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors is damaged: \d+ bytes instead of"),
        (flip, r"optimizer\.safetensors is damaged: its content"),
        (lose, r"config\.json is missing"),
        (tear_state, r"state\.json is damaged: 40 bytes instead of"),
        (tear_manifest, r"manifest\.json cannot be read"),
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


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    verify(folder)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(CheckpointError):
                verify(folder)
        path.write_bytes(content)
    verify(folder)


def test_checkpoints_of_before_the_manifest_are_refused_and_never_started_over(tmp_path: Path) -> None:
    (write(tmp_path, 1) / "manifest.json").unlink()
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(VersionError, match=r"has no manifest\.json: it was written before .*\(version 0\)"),
    ):
        newest(tmp_path)
    with pytest.raises(VersionError, match="version 0"):
        resolve(tmp_path / "step-00000001")
    write(tmp_path, 2)
    assert newest(tmp_path) == tmp_path / "step-00000002"
    manifest = json.loads((tmp_path / "step-00000002" / "manifest.json").read_text())
    (tmp_path / "step-00000002" / "manifest.json").write_text(json.dumps(manifest | {"version": 9}))
    with pytest.raises(VersionError, match="version 9"):
        verify(tmp_path / "step-00000002")


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
