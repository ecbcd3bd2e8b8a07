"""Schedule against a slow reading, decay groups and per-part rates by what an optimizer step really does."""

import math

import pytest
import torch
from torch import nn

from vlp.config import ConfigError
from vlp.engine.optim import OptimConfig, build_optimizer, learning_rate, parameter_groups, set_learning_rate


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4))
        self.text_pooler = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(0.5))


def slow_schedule(steps: int, warmup: int, peak: float, floor: float) -> list[float]:
    """Warm-up as a walk up a ladder, then points on half a cosine wave, drawn one after another."""
    ladder = [peak * k / warmup for k in range(1, warmup)]
    points = steps - warmup
    wave = [floor + (peak - floor) * (math.cos(math.pi * k / points) + 1) / 2 for k in range(points + 1)]
    return (ladder + wave) if warmup else wave[1:]


@pytest.mark.parametrize(("warmup", "given"), [(0, 0.0), (4, 4.0), (5, 0.25), (1, 1.0)])
def test_learning_rate_is_the_slow_schedule(warmup: int, given: float) -> None:
    config = OptimConfig(lr=3e-4, min_lr=1e-5, warmup_steps=given)
    rates = [learning_rate(step, 20, config) for step in range(1, 21)]
    assert rates == pytest.approx(slow_schedule(20, warmup, 3e-4, 1e-5), rel=1e-9)
    assert rates[-1] == pytest.approx(1e-5)


def test_whole_run_as_warmup_ends_at_the_peak() -> None:
    assert learning_rate(10, 10, OptimConfig(lr=1.0, warmup_steps=10)) == pytest.approx(1.0)


def test_only_matrices_and_embeddings_decay() -> None:
    torch.manual_seed(0)
    module = Parts()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = build_optimizer(module, OptimConfig(weight_decay=0.1))
    set_learning_rate(optimizer, 0.5)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    shrunk = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert shrunk == {"text.0.weight", "text_pooler.weight"}
    torch.testing.assert_close(module.text[0].weight.detach(), before["text.0.weight"] * (1 - 0.5 * 0.1))


def test_longest_prefix_gives_the_rate_and_zero_freezes() -> None:
    module = Parts()
    scales = {"text": 0.1, "text.1": 0, "scale": 2.0}
    optimizer = build_optimizer(module, OptimConfig(lr_scale=scales, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    set_learning_rate(optimizer, 1e-2)
    for p in module.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    moved = {n: float((before[n] - p.detach()).abs().max()) for n, p in module.named_parameters()}
    # AdamW's first step moves every element by its learning rate.
    expected = {"text.0.weight": 1e-3, "text.1.weight": 0, "text.1.bias": 0, "scale": 2e-2}
    expected |= {"text_pooler.weight": 1e-2, "text_pooler.bias": 1e-2}  # "text" is not a prefix of "text_pooler"
    assert moved == pytest.approx(expected, rel=1e-3, abs=1e-8)
    assert not module.text[1].weight.requires_grad


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    module = Parts()
    names = [name for group in parameter_groups(module, OptimConfig(lr_scale={"text": 0.5})) for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"txt": 0.1}, "did you mean 'text'"),
        ({"text": -1.0}, "must be 0 or more"),
        ({"text": 0, "text_pooler": 0, "scale": 0}, "nothing is left to train"),
    ],
)
def test_unusable_scales_are_errors(scales: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(Parts(), OptimConfig(lr_scale=scales))
