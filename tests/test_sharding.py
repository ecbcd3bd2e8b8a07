"""ZeRO-1, 2, 3 and FSDP2 on two gloo processes: DDP's losses, and one form of checkpoint for all of them."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

import vlp
from tests import parts, ranks
from tests.small_run import small_config, write_data
from tests.test_resume import lines
from vlp import cli, training
from vlp.config import ConfigError
from vlp.engine import launch, loop
from vlp.engine.checkpoint import checkpoint_path
from vlp.engine.tensors import read_tensors, write_tensors
from vlp.interop.folder import export
from vlp.model import VLModel

ROOT = Path(__file__).parent.parent
STEPS = 20


def pretend_launch(kind: str, folder: str) -> None:
    """What `accelerate launch --config_file configs/accelerate/{kind}.yaml` sets, for a machine without GPUs."""
    if kind.startswith("zero"):
        settings = json.loads((ROOT / "configs" / "deepspeed" / f"{kind}.json").read_text())
        settings["zero_optimization"] |= {"overlap_comm": False, "contiguous_gradients": False}  # CUDA streams
        if kind == "zero3":  # cut what is as small as this model's matrices, too
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = 100
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


def scores(model: VLModel) -> dict[str, torch.Tensor]:
    """Log-odds of eight pairs by the fused head, and where the model has them the logits of all 64 by ITC."""
    batch = parts.batch()
    with torch.no_grad():
        image, text = model.encode_image(batch), model.encode_text(batch.text_ids, batch.text_mask)
        found = {"itm": model.match(text, model.prepare_image(image))}
        return found | ({"itc": model.contrast.scores(image, text)} if "itc" in model.similarities else {})


def filled(model: VLModel, file: Path) -> VLModel:
    """The same model with the weights of a file, none of its own."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    model.load_state_dict(read_tensors(file))
    return model


def gathered(parameters: list[Any]) -> AbstractContextManager[None]:
    """Under ZeRO-3 every parameter whole: outside of the wrapped task DeepSpeed gathers none but a module's own."""
    if not hasattr(parameters[0], "ds_tensor"):
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(parameters)


def train_and_score(**given: Any) -> int:
    """The loop, and after it the scores of the live model, in whose parts all ranks have a share."""
    last, task = loop.train(**given), given["task"]
    if isinstance(task, FSDPModule):
        task.unshard()  # what belongs to no block; blocks gather themselves
    with gathered(list(given["inner"].parameters())):
        found = scores(given["inner"].eval().model)
    if given["accelerator"].is_main_process:
        write_tensors(Path(f"{given['run'].out}.scores"), found)
    return last


def work(data: str, out: str, system: str, kind: str, resume: bool, every: int) -> None:
    training.train = train_and_score
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
    [
        ("two_stream", "zero1", False),
        ("two_stream", "zero2", True),
        ("two_stream", "zero3", True),
        ("two_stream", "fsdp2", True),
        *(("one_stream", kind, False) for kind in ("zero1", "zero2", "zero3", "fsdp2")),
    ],
)
def test_a_cut_run_is_ddps_its_export_the_live_model_and_it_goes_on_as_ddp_and_back(
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
    exported = export(tmp_path / kind, tmp_path / "exported") and vlp.load(tmp_path / "exported", device="cpu")
    live = read_tensors(tmp_path / f"{kind}.scores")
    torch.testing.assert_close(scores(exported.model), live, rtol=1e-5, atol=1e-5)
    one = tmp_path / "one.safetensors"
    assert cli.main(["checkpoint", "consolidate", str(tmp_path / kind), str(one)]) == 0
    torch.testing.assert_close(scores(filled(exported.model, one)), live, rtol=1e-5, atol=1e-5)
    if on:
        assert resumed(data, folder, tmp_path / "to", system, kind) == pytest.approx(whole[10:], rel=1e-5)
        assert resumed(data, tmp_path / kind, tmp_path / "from", system, "ddp") == pytest.approx(cut[10:], rel=1e-5)


def test_mixed_objectives_are_refused_where_weights_are_cut(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "cuts_weights", lambda accelerator: True)
    config = small_config(data, tmp_path / "run", steps=1)
    config.mix = dict.fromkeys(config.objectives, 1.0)
    with pytest.raises(ConfigError, match="set mix=null"):
        training.run(config)
    assert not (tmp_path / "run").exists()
