"""Weights of a vision transformer's file in timm's names, for the parts of a one-stream model (ViLT, Kim 2021, 4.1)."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def read_vit(file: str) -> dict[str, Tensor]:
    """State of a timm vision transformer in fp32, its classifier left out. Raises FileNotFoundError."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"vision weights {file} do not exist; give a timm safetensors file or null")
    state = {k: v.float() for k, v in load_file(file).items()}
    return {k: v for k, v in state.items() if not k.startswith(("head.", "mask_token"))}


def vit_patches(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The patch embedding of a ViT's state, in `LinearPatches`' names: its convolution is a linear layer a patch."""
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    check(state, needed)
    token, positions, weight, bias = (state[name] for name in needed)
    projection = {"projection.weight": weight.flatten(1), "projection.bias": bias}
    return {"class_token": token, "positions": positions} | projection


def vit_layers(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The first `count` blocks of a ViT's state and its last norm, in the names of pre-norm blocks."""
    names = {
        "attention_norm": "norm1",
        "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
        "feed_forward_norm": "norm2",
        "feed_forward.up": "mlp.fc1",
        "feed_forward.down": "mlp.fc2",
    }
    pairs = {
        f"layers.{i}.{name}.{kind}": f"blocks.{i}.{theirs}.{kind}"
        for i in range(count)
        for name, theirs in names.items()
        for kind in ("weight", "bias")
    } | {f"norm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    check(state, tuple(pairs.values()))
    theirs_too = [k for k in state if k.startswith("blocks.") and int(k.split(".")[1]) < count]
    extra = sorted(set(theirs_too) - set(pairs.values()))
    if extra:
        raise ValueError(f"this ViT's blocks have more than those of a one-stream model: {', '.join(extra[:4])}")
    return {name: state[theirs] for name, theirs in pairs.items()}


def check(state: dict[str, Tensor], needed: tuple[str, ...]) -> None:
    """Raise ValueError naming what a ViT's state lacks."""
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(f"this file lacks {', '.join(missing[:4])}, which a one-stream model takes from a timm ViT")


def check_shapes(own: dict[str, Tensor], found: dict[str, Tensor], file: str) -> None:
    """Raise ValueError naming the tensors of another shape."""
    other = [f"{k} {tuple(v.shape)}, here {tuple(own[k].shape)}" for k, v in found.items() if v.shape != own[k].shape]
    if other:
        raise ValueError(f"{file} is of another size: {'; '.join(other[:4])}")
