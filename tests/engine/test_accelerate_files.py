"""The launch files: Accelerate takes from each what it says; the one for CPUs really starts two processes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.small_run import write_data

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
SAYS: dict[str, dict[str, Any]] = {
    "cpu": {"multi_gpu": True, "use_cpu": True, "num_processes": 2},
    "one_gpu": {"multi_gpu": False, "use_cpu": False, "num_processes": 1},
    "multi_gpu": {"multi_gpu": True, "use_cpu": False, "num_processes": 8, "num_machines": 1},
    "multi_node": {"multi_gpu": True, "num_processes": 16, "num_machines": 2, "main_process_port": 29500},
    "fsdp2": {"use_fsdp": True, "fsdp_version": 2, "num_processes": 8},
}
SAYS |= {
    name: {"use_deepspeed": True, "deepspeed_config_file": f"configs/deepspeed/{name}.json", "num_processes": 8}
    for name in ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
}


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in FILES])
def test_accelerate_takes_from_each_file_what_it_says(path: Path) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    words = ["--config_file", str(path), "-m", "pretrain", "CONFIG"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    found = {name: getattr(arguments, name) for name in SAYS[path.stem]}
    assert found == SAYS[path.stem]
    assert not (arguments.use_deepspeed and arguments.use_fsdp)
    assert f"configs/accelerate/{path.name}" in path.read_text()  # the command in its head


def test_every_file_is_known_here_and_in_the_page() -> None:
    assert {path.stem for path in FILES} == set(SAYS)
    page = (ROOT / "docs" / "distributed.md").read_text()
    assert all(path.name in page for path in FILES)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeeds_files_hold_the_stage_in_their_name_and_leave_the_batch_to_the_run(stage: int) -> None:
    for path in (ROOT / "configs" / "deepspeed").glob(f"zero{stage}*.json"):
        settings = json.loads(path.read_text())
        assert settings["zero_optimization"]["stage"] == stage
        assert ("offload_optimizer" in settings["zero_optimization"]) == ("offload" in path.stem)
        for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
            assert settings[name] == "auto"


CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.small_run import small_config


def config():
    return small_config({data!r}, {out!r}, steps=2000, checkpoint_every=0, eval_every=0)
"""


def launch(tmp_path: Path, out: Path) -> "subprocess.Popen[str]":
    data = write_data(tmp_path / "data")
    (tmp_path / "small.py").write_text(CONFIG.format(root=str(ROOT), data=str(data), out=str(out)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["-m", "pretrain", str(tmp_path / "small.py"), "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_the_launcher_starts_two_ranks_and_hands_its_sigterm_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = launch(tmp_path, out)
    while not (out / "log.jsonl").is_file() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    record = json.loads((out / "run.json").read_text())["starts"][-1]
    assert (record["processes"], record["launch"]) == (2, "MULTI_CPU"), told[-2000:]
    assert record["ended"]["state"].startswith("stopped by"), told[-2000:]
    assert (out / f"step-{record['ended']['step']:08d}" / "manifest.json").is_file()


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False)])
def test_the_slurm_script_queues_itself_again_on_75_alone(code: int, requeued: bool, tmp_path: Path) -> None:
    programs = {
        "srun": f'SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=16 "$@"; exit {code}',
        "python": 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT $*"',
        "scontrol": 'case $1 in show) echo node7; echo node8;; *) echo "$@" > "$TOLD";; esac',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755 | stat.S_IXUSR)
    told = tmp_path / "told"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node[7-8]"}
    done = subprocess.run(
        ["bash", str(ROOT / "configs/accelerate/slurm.sbatch"), "CONFIG", "run.out=runs/a b"],
        env=environment | {"TOLD": str(told)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert done.stdout == "3/16 1 node7:20041 -m pretrain CONFIG run.out=runs/a b --resume\n"
    assert (told.read_text() if told.exists() else None) == ("requeue 41\n" if requeued else None)
