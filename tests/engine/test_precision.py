"""The choice of the number format, and what is said where it is a bad one."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from tests.small_run import small_config, write_data
from vlp.engine import precision
from vlp.engine.precision import resolve_precision
from vlp.training import run

# "auto" is bf16 where the machine is fast at it, and accelerate would hold every later run of the process to that.
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_auto_is_what_the_machine_does_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fast, choice in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(precision, "has_fast_bf16", lambda fast=fast: fast)
        assert resolve_precision("auto") == choice
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision("auto") == "fp16"  # a GPU without bfloat16


def test_slow_bf16_is_warned_of_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: False)
    with pytest.warns(UserWarning, match="precision auto or no"):
        assert resolve_precision("bf16") == "bf16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [resolve_precision(asked) for asked in ("no", "fp16", "auto")] == ["no", "fp16", "no"]
        monkeypatch.setattr(precision, "has_fast_bf16", lambda: True)
        assert resolve_precision("bf16") == "bf16"


def test_a_run_records_the_format_that_it_computes_in(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    run(small_config(data, tmp_path / "run", precision="auto", steps=1))
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["run"]["precision"] == resolve_precision("auto") != "auto"


def test_tf32_is_what_a_run_asks_for_and_no_other_run_keeps_it(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    found = []
    for name, asked in (("on", True), ("off", False)):
        run(small_config(data, tmp_path / name, tf32=asked, steps=1))
        found.append(torch.get_float32_matmul_precision())
    assert found == ["high", "highest"]
