"""What only an accelerator shows: number formats, fused attention, compiled blocks, recomputed activations, ZeRO.

    pytest -m gpu

Runs are processes of their own on one GPU. Where there is none everything here is skipped, for that reason alone.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests import ranks
from tests.small_run import small_config, write_data
from tests.test_resume import lines
from tests.test_sharding import pretend_launch
from vlp import training
from vlp.engine.checkpoint import checkpoint_path, read_state
from vlp.layers.attention import attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and there is none"),
]
STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


def work(data: str, out: str, kind: str, port: int, resume: bool, drawn: bool, settings: dict[str, Any]) -> None:
    """A run on one device under a launch, or on the CPU; without `drawn` contrast alone, for which nothing is drawn."""
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif kind:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1", "RANK": "0"}
        os.environ["LOCAL_RANK"] = "0"
        pretend_launch(kind, str(Path(out).parent))
    given = {"steps": STEPS, "checkpoint_every": 10, "eval_every": 0, "keep": 0} | settings
    config = small_config(data, out, **given)
    if not drawn:
        config.objectives = {"itc": config.objectives["itc"]}
        model: Any = config.model
        model.kwargs["text"].kwargs["dropout"] = 0.0
        del model.kwargs["fusion"], model.kwargs["similarities"]["itm"]
        config.evaluation.k = 0
    training.run(config, resume=resume)


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in lines(out) if "loss" in record]


def run(
    data: Path, out: Path, kind: str = "", resume: bool = False, drawn: bool = True, **settings: Any
) -> list[float]:
    """The losses of a run's steps."""
    started = ranks.start(1, out, work, str(data), str(out), kind, ranks.free_port(), resume, drawn, settings)
    ranks.finish(started, out, seconds=600)
    return losses(out)


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the others are compared with: float32, one process, nothing switched on."""
    out = tmp_path_factory.mktemp("plain") / "run"
    run(data, out)
    return out


def test_a_gpu_computes_the_contrast_of_a_cpu(data: Path, tmp_path: Path) -> None:
    gpu, cpu = (run(data, tmp_path / (kind or "gpu"), kind, drawn=False) for kind in ("", "cpu"))
    assert gpu == pytest.approx(cpu, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_short_numbers_follow_float32(precision: str, data: Path, plain: Path, tmp_path: Path) -> None:
    short = run(data, tmp_path / "run", precision=precision)
    assert short != losses(plain)
    assert short == pytest.approx(losses(plain), rel=0.05)
    state = read_state(checkpoint_path(tmp_path / "run", STEPS))
    assert (state["scaler"] is not None) == (precision == "fp16")


def test_tf32_follows_float32(data: Path, plain: Path, tmp_path: Path) -> None:
    short = run(data, tmp_path / "run", tf32=True)
    assert short != losses(plain)
    assert short == pytest.approx(losses(plain), rel=1e-2)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_compiled_blocks_compute_what_they_computed(precision: str, data: Path, tmp_path: Path) -> None:
    eager = run(data, tmp_path / "eager", drawn=False, precision=precision)
    compiled = run(data, tmp_path / "compiled", drawn=False, precision=precision, compile=True)
    assert compiled == pytest.approx(eager, rel=1e-3 if precision == "no" else 0.02)


def test_recomputed_activations_give_the_same_losses(data: Path, plain: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run", checkpointing=True) == pytest.approx(losses(plain), rel=1e-3)


def test_a_resumed_run_goes_on_as_the_unbroken_one(data: Path, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out)
    for path in out.glob(f"step-*{STEPS}"):
        (path / "manifest.json").write_text("{}")  # damaged: the run goes on from step 10
    assert run(data, out, resume=True)[10:] == pytest.approx(losses(plain)[10:], rel=1e-4)


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3"])
def test_zero_on_one_gpu_is_the_plain_run(kind: str, data: Path, plain: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    assert run(data, tmp_path / "run", kind) == pytest.approx(losses(plain), rel=1e-3)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Vaswani 2017, equation 1, in float64."""
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v.double()


@pytest.mark.parametrize(
    ("backend", "masked"),
    [(SDPBackend.FLASH_ATTENTION, False), (SDPBackend.EFFICIENT_ATTENTION, True), (SDPBackend.MATH, True)],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_attention_is_attention(backend: SDPBackend, masked: bool, dtype: torch.dtype) -> None:
    """Forward and the gradient of the queries, by the very kernel: `sdpa_kernel` allows no other."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 48, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    mask = (torch.arange(48, device="cuda") < torch.tensor([48, 30], device="cuda")[:, None])[:, None, None]
    shown = mask if masked else None
    weights = torch.randn(2, 4, 48, 64, device="cuda", dtype=torch.float64)
    with sdpa_kernel(backend):
        out = attend(q, k, v, shown, 0.0)
    (grad,) = torch.autograd.grad((out.double() * weights).sum(), q)
    exact = plain_attention(q, k, v, shown)
    (exact_grad,) = torch.autograd.grad((exact * weights).sum(), q)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=0.02)
    torch.testing.assert_close(grad.double(), exact_grad.double(), rtol=0, atol=0.06)


def test_flash_attention_is_what_torch_takes_for_unpadded_bf16() -> None:
    """With everything allowed the result is the flash kernel's, to the bit."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 48, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    free = attend(q, k, v, None, 0.0)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        assert torch.equal(attend(q, k, v, None, 0.0), free)
