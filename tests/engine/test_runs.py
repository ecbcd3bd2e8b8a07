"""`vlp runs` and `vlp checkpoint`: what they say of folders whose content is known, and what they draw."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vlp import cli
from vlp.engine.checkpoint import newest, save
from vlp.engine.curves import smooth, ticks
from vlp.engine.folder import open_folder, record_end
from vlp.engine.log import open_log
from vlp.engine.runs import find_runs
from vlp.engine.tensors import read_tensors


def run(folder: Path, losses: list[float], recalls: dict[int, float] | None = None, ended: str | None = None) -> Path:
    open_folder(folder, {"run": {"steps": 50}}, {"command": "vlp pretrain"}, 0)
    write = open_log(folder / "log.jsonl")
    for step, loss in enumerate(losses, 1):
        write(step, {"loss": loss, "lr": 1e-3, "samples_per_second": 12.0})
        if recalls and step in recalls:
            write(step, {"retrieval/first/image to text/R@1": recalls[step], "retrieval/first/text to image/R@1": 1.0})
    if ended is not None:
        record_end(folder, ended, len(losses))
    return folder


def test_runs_are_listed_with_state_step_loss_and_best_recall(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", [3.0, 2.0, 2.5], {1: 10.0, 2: 30.0, 3: 20.0}, ended="finished")
    run(tmp_path / "deep" / "b", [9.0])
    with (tmp_path / "deep" / "b" / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # torn by a kill
    assert cli.main(["runs", str(tmp_path)]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run",
        "state",
        "step",
        "loss",
        "best",
        "R@1",
        "TR",
        "best",
        "R@1",
        "IR",
        "pairs/s",
        "MFU",
        "skipped",
        "last",
        "line",
    ]
    assert first.split()[:7] == ["a", "finished", "3/50", "2.5000", "30.0", "1.0", "12"]
    assert second.split()[:6] == ["deep/b", "running", "1/50", "9.0000", "-", "-"]


def test_a_run_whose_process_is_gone_without_a_word_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from vlp.engine.folder import open_folder; "
        "open_folder(Path(sys.argv[1]), {'run': {'steps': 5}}, {}, 0); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")], check=False)
    run(tmp_path / "other", [1.0])
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    record["starts"][-1]["process"]["host"] = "elsewhere"
    (tmp_path / "other" / "run.json").write_text(json.dumps(record))
    assert [r.state() for r in find_runs(tmp_path)] == ["killed", "running"]
    os.utime(tmp_path / "other" / "log.jsonl", (0, 0))
    assert find_runs(tmp_path)[1].state() == "silent"


def test_a_folder_without_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def pixels(picture: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    width = picture.width
    flat = [picture.getpixel((i % width, i // width)) for i in range(width * picture.height)]
    return [(i % width, i // width) for i, value in enumerate(flat) if value == colour]


def test_the_curves_are_drawn_where_their_values_are(tmp_path: Path) -> None:
    run(tmp_path / "falls", [10.0 - i for i in range(10)], {5: 1.0, 9: 3.0})
    run(tmp_path / "rises", [float(i) for i in range(10)] + [float("nan")])
    assert cli.main(["runs", "plot", str(tmp_path)]) == 0
    picture = Image.open(tmp_path / "curves.png").convert("RGB")
    assert picture.width == 3 * 520
    loss = picture.crop((74, 48 + 16 + 34, 520 - 16, 48 + 16 + 300 - 30))  # the first panel, below a legend of two
    for colour, falls in (((0x1F, 0x77, 0xB4), True), ((0xD6, 0x27, 0x28), False)):
        found = pixels(loss, colour)
        left = [y for x, y in found if x < loss.width * 0.2]
        right = [y for x, y in found if x > loss.width * 0.7]
        assert (max(left) < min(right)) if falls else (min(left) > max(right))


def test_ticks_are_round_and_smoothing_keeps_the_mean() -> None:
    assert ticks(0.0, 10.0) == [0.0, 5.0, 10.0]
    assert ticks(1.3, 2.2) == pytest.approx([1.5, 2.0])
    assert ticks(3.0, 3.0) == [3.0]
    straight = [(i, 2.0 * i) for i in range(200)]
    assert smooth(straight)[100] == (100, pytest.approx(200.0))


def checkpoint(run: Path, step: int, **tensors: torch.Tensor) -> Path:
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    state: dict[str, Any] = {"seed": 1, "metrics": {"loss": 0.5}, "commit": "abc", "versions": {"torch": "2"}}
    return save(run, step, tensors={"model.safetensors": named}, files={"config.json": b"{}"}, state=state)


def test_inspect_tells_step_metrics_files_and_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path, 7, model__vision__w=torch.zeros(3, 2), model__vision__b=torch.zeros(3))
    assert cli.main(["checkpoint", "inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "step 7, written 20" in text
    assert "loss" in text
    assert "config.json" in text
    assert "9 in 2" in " ".join(text.split())


def test_verify_tells_whole_from_damaged_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        checkpoint(tmp_path, step, w=torch.zeros(3))
    assert cli.main(["checkpoint", "verify", str(tmp_path)]) == 0
    (tmp_path / "step-00000002" / "config.json").write_bytes(b"[]")
    capsys.readouterr()
    assert cli.main(["checkpoint", "verify", str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("step-00000001: whole")
    assert "config.json is damaged" in second
    assert cli.main(["checkpoint", "verify", str(tmp_path / "nowhere")]) == 2


def test_the_average_is_the_mean_of_weights_and_the_last_of_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 6):
        half = torch.full((2,), step, dtype=torch.bfloat16)
        checkpoint(tmp_path, step, model__w=torch.full((2,), float(step)), model__h=half, teacher__w=half, n=half.int())
    assert cli.main(["checkpoint", "average", str(tmp_path), "--out", str(tmp_path / "mean")]) == 0
    folder = newest(tmp_path / "mean")
    assert folder is not None
    found = read_tensors(folder / "model.safetensors")
    assert found["model.w"].tolist() == [3.0, 3.0]
    assert (found["model.h"].dtype, found["model.h"].tolist()) == (torch.bfloat16, [3.0, 3.0])
    assert found["teacher.w"].tolist() == [6.0, 6.0]
    assert found["n"].tolist() == [6, 6]
    capsys.readouterr()
    cli.main(["checkpoint", "inspect", str(folder)])
    assert "the mean of" in capsys.readouterr().out
    assert cli.main(["checkpoint", "average", str(tmp_path)]) == 2
    checkpoint(tmp_path / "other", 1, model__v=torch.zeros(1))
    paths = [str(tmp_path / "other"), str(tmp_path)]
    assert cli.main(["checkpoint", "average", *paths, "--out", str(tmp_path / "x")]) == 2
    assert "does not fit" in capsys.readouterr().err
