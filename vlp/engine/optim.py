"""AdamW with decay groups and per-part learning rates; warm-up and cosine as a pure function of the step."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vlp.config import ConfigError


@dataclass
class OptimConfig:
    """Optimizer settings. `lr_scale` maps a prefix of parameter names to a multiplier of the learning rate.

    The longest matching prefix counts: `{"model.vision": 0.1, "model.vision.vit.patch_embed": 0}`; 0 freezes.
    """

    lr: float = 1e-4  # at the end of the warm-up
    min_lr: float = 1e-6  # at the last step
    weight_decay: float = 0.02  # on matrices and embeddings; never on biases, norms and scales
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: float = 0.0  # steps of linear warm-up; a value below 1 is a share of run.steps
    clip: float = 1.0  # largest norm of the gradient of all parameters together; 0 = no clipping
    lr_scale: dict[str, float] = field(default_factory=dict)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of step 1 <= `step` <= `steps`: linear to `lr` over the warm-up, then half a cosine to `min_lr`."""
    warmup = config.warmup_steps * steps if config.warmup_steps < 1 else config.warmup_steps
    if step < warmup:
        return config.lr * step / warmup
    progress = min(1.0, (step - warmup) / max(steps - warmup, 1))
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Any, value: float) -> None:
    """Give every group its share of the step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["scale"]


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups {params, names, scale, weight_decay} of the trainable parameters, in the module's order.

    Parameters of fewer than two dimensions (biases, norms, scales) get no weight decay. Freezes parameters whose
    multiplier is 0. Raises ConfigError for a prefix that no parameter has, or when nothing is left to train.
    """
    _check_prefixes(config.lr_scale, [name for name, _ in module.named_parameters()])
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        scale = _scale(name, config.lr_scale)
        if scale == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim < 2 else config.weight_decay
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ConfigError("optim.lr_scale freezes every parameter; nothing is left to train")
    return list(groups.values())


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`."""
    groups = parameter_groups(module, config)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _scale(name: str, scales: dict[str, float]) -> float:
    matching = [prefix for prefix in scales if _has_prefix(name, prefix)]
    return scales[max(matching, key=len)] if matching else 1.0


def _has_prefix(name: str, prefix: str) -> bool:
    # Whole name parts only: "model.text" is no prefix of "model.text_pooler.weight".
    return name == prefix or name.startswith(f"{prefix}.")


def _check_prefixes(scales: dict[str, float], names: Iterable[str]) -> None:
    known = {".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 2)}
    for prefix, scale in scales.items():
        if prefix not in known:
            near = difflib.get_close_matches(prefix, sorted(known), n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"optim.lr_scale: no parameter's name starts with {prefix!r}{hint}")
        if scale < 0:
            raise ConfigError(f"optim.lr_scale: {prefix!r} has the multiplier {scale}; it must be 0 or more")
