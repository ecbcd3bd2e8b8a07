"""Which number format a step computes in: "auto" takes bfloat16 only where the hardware multiplies it.

A CPU without bfloat16 instructions computes it in software: measured on one with AVX2, products of 1024 x 1024 matrices
run at 0.8 GFLOP/s in place of float32's 87.
"""

import warnings

import torch

PRECISIONS = ("auto", "no", "bf16", "fp16")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16() -> bool:
    """Whether this machine's accelerator, or its CPU where there is none, multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def set_tf32(on: bool) -> None:
    """Let matrix products of float32 take TF32, or all their bits. Convolutions on a GPU take TF32 as torch has it."""
    torch.set_float32_matmul_precision("high" if on else "highest")


def resolve_precision(asked: str) -> str:
    """ "no", "bf16" or "fp16": what is asked for, and for "auto" bf16 where it is fast, else fp16 on a GPU, else "no".

    Warns where bf16 is asked for by name and would be computed in software.
    """
    fast = has_fast_bf16() if asked in ("auto", "bf16") else True
    if asked == "auto":
        return "bf16" if fast else "fp16" if torch.cuda.is_available() else "no"
    if asked == "bf16" and not fast:
        text = "bf16 is computed in software on this machine, many times slower than float32; take precision auto or no"
        warnings.warn(text, stacklevel=2)
    return asked
