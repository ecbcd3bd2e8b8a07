"""The mean of several checkpoints' weights (Izmailov 2018, arXiv 1803.05407), written as a checkpoint of its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vlp.engine.checkpoint import read_state, save
from vlp.engine.manifest import MANIFEST, STATE, read_manifest, verify
from vlp.engine.tensors import CheckpointError, check_fit, read_tensors

MODEL = "model.safetensors"


def average(folders: Sequence[Path], out: Path) -> Path:
    """Write `out`/step-N, N the last one's step: to evaluate, to export, or as `init=`; it holds no optimizer state.

    Model and objectives are averaged in float64. Whole numbers, the teacher and everything else are the last one's.
    Raises CheckpointError for damaged checkpoints and for checkpoints of different models.
    """
    if len(folders) < 2:
        raise CheckpointError(f"an average needs two checkpoints or more, not {len(folders)}")
    for folder in folders:
        verify(folder)
    last = folders[-1]
    state = {key: value for key, value in read_state(last).items() if key not in ("metrics", "measured", "written")}
    names = [name for name in read_manifest(last) if name.endswith(".json") and name not in (STATE, MANIFEST)]
    return save(
        out,
        state["step"],
        tensors={MODEL: _mean(folders)},
        files={name: (last / name).read_bytes() for name in names},
        state=state | {"averaged": [str(folder) for folder in folders]},
    )


def _mean(folders: Sequence[Path]) -> dict[str, Tensor]:
    last = read_tensors(folders[-1] / MODEL)
    sums = {name: value.double() for name, value in last.items() if _is_averaged(name, value)}
    for folder in folders[:-1]:
        other = read_tensors(folder / MODEL)
        check_fit(last, other, folder / MODEL, f"average checkpoints of one run, or of the model of {folders[-1]}")
        for name, total in sums.items():
            total += other[name].double()
    return last | {name: (total / len(folders)).to(last[name].dtype) for name, total in sums.items()}


def _is_averaged(name: str, value: Tensor) -> bool:
    return torch.is_floating_point(value) and not name.startswith("teacher.")
