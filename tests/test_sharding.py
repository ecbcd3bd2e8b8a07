"""ZeRO-1, ZeRO-2 and FSDP2 on two gloo processes: DDP's losses, and one form of checkpoint for all of them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import parts, ranks
from tests.small_run import small_config, write_data
from tests.test_resume import lines
from vlp import training
from vlp.engine.checkpoint import checkpoint_path
from vlp.engine.launch import LaunchError
from vlp.engine.tensors import read_tensors

ROOT = Path(__file__).parent.parent
STEPS = 20


def pretend_launch(kind: str, folder: str) -> None:
    """What `accelerate launch --config_file configs/accelerate/{kind}.yaml` sets, for a machine without GPUs."""
    if kind.startswith("zero"):
        settings = json.loads((ROOT / "configs" / "deepspeed" / f"{kind}.json").read_text())
        settings["zero_optimization"] |= {"overlap_comm": False, "contiguous_gradients": False}  # CUDA streams
        path = Path(folder) / f"{kind}-{os.getpid()}.json"
        path.write_text(json.dumps(settings))
        os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    if kind == "fsdp2":
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        os.environ |= {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
            "FSDP_OFFLOAD_PARAMS": "false",
            "ACCELERATE_TORCH_DEVICE": "cpu",
        }
        # Accelerate offers FSDP on accelerators alone; torch's own works on gloo.
        backend = ("gloo", DistributedType.MULTI_GPU)
        PartialState._prepare_backend = lambda *a, **k: backend  # type: ignore[method-assign]


def work(data: str, out: str, system: str, kind: str, resume: bool, every: int) -> None:
    pretend_launch(kind, str(Path(out).parent))
    config = small_config(data, out, steps=STEPS, checkpoint_every=every, eval_every=0, keep=0, mfu=False)
    if system == "one_stream":
        made = parts.one_stream()
        config.model, config.objectives, config.teacher = made["model"], made["objectives"], None
    training.run(config, resume=resume)


def run(data: Path, out: Path, system: str, kind: str, *, resume: bool = False, every: int = 0) -> list[float]:
    ranks.finish(ranks.start(2, out, work, str(data), str(out), system, kind, resume, every), out)
    return [record["loss"] for record in lines(out) if "loss" in record]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


def state(out: Path, step: int, name: str = "model") -> dict[str, torch.Tensor]:
    return read_tensors(checkpoint_path(out, step) / f"{name}.safetensors")


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.allclose(value, other[name], rtol=1e-3, atol=1e-4) for name, value in one.items())


def resumed(data: Path, source: Path, out: Path, system: str, kind: str) -> list[float]:
    """The losses after step 10 of a run that starts from another one's checkpoint of that step."""
    shutil.copytree(source, out)
    shutil.rmtree(checkpoint_path(out, STEPS))
    return run(data, out, system, kind, resume=True, every=10)[10:]


@pytest.fixture(scope="module")
def ddp(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[float]]]:
    """`ddp(system)`: the folder of a run under DDP, and its losses."""
    folder, losses = tmp_path_factory.mktemp("ddp"), {}

    def made(system: str) -> tuple[Path, list[float]]:
        if system not in losses:
            losses[system] = run(data, folder / system, system, "ddp", every=10)
        return folder / system, losses[system]

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "kind", "on"),
    [("two_stream", "zero2", True), ("two_stream", "zero1", False), ("one_stream", "fsdp2", True)],
)
def test_a_cut_run_is_ddps_and_goes_on_as_ddp_and_back(
    system: str, kind: str, on: bool, data: Path, ddp: Callable[[str], tuple[Path, list[float]]], tmp_path: Path
) -> None:
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    folder, whole = ddp(system)
    cut = run(data, tmp_path / kind, system, kind, every=10)
    assert len(whole) == STEPS
    assert cut == pytest.approx(whole, rel=1e-3)
    for name in ("model", "optimizer"):
        assert close(state(tmp_path / kind, 10, name), state(folder, 10, name))
    if on:
        assert resumed(data, folder, tmp_path / "to", system, kind) == pytest.approx(whole[10:], rel=1e-5)
        assert resumed(data, tmp_path / kind, tmp_path / "from", system, "ddp") == pytest.approx(cut[10:], rel=1e-5)


def refused(data: str, out: str, kind: str) -> None:
    pretend_launch(kind, str(Path(out).parent))
    with pytest.raises(LaunchError) as error:
        training.run(small_config(data, out, steps=1, mfu=False))
    Path(f"{out}.told").write_text(str(error.value))


@pytest.mark.slow
def test_what_fsdp_cannot_cut_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks.finish(ranks.start(2, out, refused, str(data), str(out), "fsdp2"), out)
    assert "model.similarities.itc.logit_scale" in Path(f"{out}.told").read_text()
