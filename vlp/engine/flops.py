"""What a sample costs and what the device could do: the two numbers behind the MFU."""

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vlp.types import Batch

# Dense matrix products of the tensor cores, in TFLOP/s, from the makers' data sheets: (bf16 and fp16, TF32).
GPUS = {
    "B200": (2250, 1125),
    "H200": (989, 495),
    "H100": (989, 495),
    "A100": (312, 156),
    "L40S": (362, 183),
    "A10": (125, 62),
    "V100": (125, 15.7),  # fp16; it has no TF32, so the second is its FP32
    "T4": (65, 8.1),
}


def count_flops(task: Any, batch: Batch) -> float:
    """FLOPs a sample of one forward and backward of the unwrapped `task`; a multiply-add is 2. Nothing is changed.

    Recomputed activations (`run.checkpointing`) count as work. All ranks must call it together: losses gather.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        task(batch).value.backward()
    task.zero_grad(set_to_none=True)
    task.discard_step()
    return float(counter.get_total_flops()) / len(batch)


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s that the device could reach: from its data sheet, or on a CPU the best matrix product of the moment.

    0 for a GPU that the table does not know.
    """
    if device.type == "cpu":
        return _measured(torch.float32 if precision == "no" else torch.bfloat16)
    name = torch.cuda.get_device_name(device)
    sheet = next((peaks for key, peaks in GPUS.items() if key in name), (0.0, 0.0))
    return 1e12 * sheet[1 if precision == "no" else 0]


def _measured(dtype: torch.dtype, size: int = 512, times: int = 5) -> float:
    matrix = torch.ones(size, size, dtype=dtype)
    best = min(_seconds(matrix) for _ in range(times))
    return 2 * size**3 / best


def _seconds(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start
