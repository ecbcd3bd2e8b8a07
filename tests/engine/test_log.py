"""What is written while training: exact numbers in the log, a readable line on screen, trackers on request."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from vlp.config import ConfigError
from vlp.engine.log import Progress, duration, open_log, open_trackers
from vlp.engine.meter import Meter
from vlp.engine.run import RunConfig


def test_log_lines_keep_every_bit_and_are_on_disk_at_once(tmp_path: Path) -> None:
    write = open_log(tmp_path / "log.jsonl")
    write(1, {"loss": 0.1 + 0.2})
    write(2, {"loss": 1 / 3})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1 / 3}]


def test_without_a_terminal_progress_is_one_line_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(steps=100, start=40)
    progress.show(50, {"loss": 1.25, "samples_per_second": 12.34, "data_wait": 0.071})
    progress.close()
    error = capsys.readouterr().err
    assert re.fullmatch(r"step 50/100: loss 1\.2500, 12\.3 samples/s, data wait 7%, ETA \d+:\d\d:\d\d\n", error)


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(steps=10, start=0, enabled=False)
    progress.show(1, {"loss": 1.0, "samples_per_second": 1.0, "data_wait": 0.0})
    progress.say("hello")
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_eta_is_the_pace_since_the_start_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(steps=100, start=40, enabled=False)
    monkeypatch.setattr("time.perf_counter", lambda: progress.began + 20)
    assert progress.seconds_left(50) == pytest.approx(100)  # ten steps in 20 s, fifty to go
    assert duration(3725.4) == "1:02:05"


class FourRanks:
    """Stands for an accelerator: three ranks like this one, and a last one that reads for two seconds more."""

    device = torch.device("cpu")

    def gather(self, row: torch.Tensor) -> torch.Tensor:
        late = row.clone()
        late[0, 2] += 2
        return torch.cat([row, row, row, late])


def test_the_meter_counts_every_rank_names_the_late_one_and_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter(flops_per_sample=3.0, peak_flops=15.0)
    for what, seconds in (("data", 1), ("forward", 2), ("backward", 1), ("paused", 100)):
        with meter.timed(what):
            now[0] += seconds
    meter.count(10)
    for _ in range(2):
        meter.step()
    rates, ranks = meter.read(cast(Any, FourRanks()))
    assert rates["samples_per_second"] == pytest.approx(10.0)  # 4 x 10 in 4 s
    assert rates["step_ms"] == pytest.approx(2000)
    assert rates["data_wait"] == pytest.approx((3 * 1 + 3) / 4 / 4)
    assert rates["mfu"] == pytest.approx(10 * 3 / (4 * 15))
    assert (rates["slowest_rank"], rates["slowest_rank_ms"]) == (3, pytest.approx(2500))
    assert [row["data_ms"] for row in ranks] == pytest.approx([500, 500, 500, 1500])
    assert ranks[0]["backward_ms"] == pytest.approx(500)
    assert ranks[0]["memory_gb"] > 0.05
    now[0] += 1
    meter.count(1)
    meter.step()
    assert meter.read(cast(Any, FourRanks()))[0]["samples_per_second"] == pytest.approx(4.0)


def test_unknown_trackers_are_named() -> None:
    with pytest.raises(ConfigError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        RunConfig(trackers=["tensorbord"]).check()


def test_a_tracker_that_is_not_installed_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; pip install wandb"):
        RunConfig(trackers=["wandb"]).check()


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (write,) = open_trackers(["tensorboard"], tmp_path, {"steps": 3})
    write(3, {"loss": 0.5})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.5)]


@pytest.mark.slow
def test_wandb_writes_to_the_run_and_talks_to_nobody_unless_told(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from vlp.engine.log import open_trackers\n"
        "(write,) = open_trackers(['wandb'], pathlib.Path(sys.argv[1]), {'steps': 3})\n"
        "write(3, {'loss': 0.5})"
    )
    outside = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=outside, timeout=120)
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    row = written.read_bytes().split(b"loss", 1)[1]  # records lie there uncompressed: the name, then its JSON
    assert b"0.5" in row[:20]


def test_the_log_module_imports_no_tracker() -> None:
    code = "import sys, vlp.engine.log; print([m for m in ('wandb', 'tensorboard') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
