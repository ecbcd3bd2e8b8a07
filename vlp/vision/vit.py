"""Any timm vision transformer as an image encoder, with an optional frozen prefix whose output can be cached."""

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.levels import check_levels
from vlp.layers.prompts import Prompts
from vlp.layers.vit_weights import read_vit
from vlp.types import Batch, Stream


class TimmViT(nn.Module):
    """(B, 3, S, S) -> Stream (B, 1 + N, D), the class token first.

    `name` and `options` go to `timm.create_model`. `weights` is a safetensors file in timm's key names; position
    embeddings of another grid are resampled (bicubic, antialiased). The patch embedding and the first
    `frozen_blocks` blocks get no gradient; their output (`prefix`) may be computed once for a data set
    (`vlp data features`) and arrives as `Batch.features`. `merge` averages squares of merge x merge patch tokens at
    the end of the prefix: the blocks and the fusion behind it then see N / merge^2 patches.

    With `levels` a token is what it was after each of these blocks (counted from 1, the last block the last of them),
    each through the final norm, side by side: K D numbers for K levels, as DINOv2's linear probes read several blocks.
    `prompts` learned tokens are read by the blocks behind the prefix (`Prompts`).
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        weights: str | None = None,
        frozen_blocks: int = 0,
        merge: int = 1,
        drop_path: float = 0.0,
        levels: Sequence[int] = (),
        options: dict[str, Any] | None = None,
        prompts: int = 0,
    ) -> None:
        super().__init__()
        made = timm.create_model(name, img_size=image_size, num_classes=0, drop_path_rate=drop_path, **(options or {}))
        self.vit = cast(Any, made)  # timm's models share no type that says what they have
        patch = self.vit.patch_embed.patch_size[0]
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of {name}'s patch {patch}")
        self.image_size = image_size
        self.levels = check_levels(levels, 1, len(self.vit.blocks))
        self.width = int(self.vit.num_features) * max(len(self.levels), 1)
        self.frozen_blocks = frozen_blocks
        self.merge = merge
        self.checkpointing = False
        self.prompts = Prompts(count=prompts, width=int(self.vit.num_features)) if prompts else None
        if weights is not None:
            load_timm_weights(self, weights)
        if frozen_blocks:
            self._freeze(frozen_blocks)

    def _freeze(self, blocks: int) -> None:
        # The final norm and the blocks behind the prefix are the only parts that train.
        trained = {id(p) for m in [*self.vit.blocks[blocks:], self.vit.norm] for p in m.parameters()}
        for parameter in self.vit.parameters():
            parameter.requires_grad = id(parameter) in trained

    def prefix(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + N, D): patch embedding, positions and the frozen blocks.

        With `levels` (B, 1 + N, K D): the K of them that the prefix reaches, its own end the last.
        """
        tokens = self.vit.patch_embed(image)
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(tokens)))
        reached = []
        for number, block in enumerate(self.vit.blocks[: self.frozen_blocks], start=1):
            tokens = block(tokens)
            if number in self.levels and number < self.frozen_blocks:
                reached.append(tokens)
        tokens = torch.cat([*reached, tokens], dim=-1)
        return tokens if self.merge == 1 else self._merged(tokens)

    def _merged(self, tokens: Tensor) -> Tensor:
        first, (height, width) = self.vit.num_prefix_tokens, self.vit.patch_embed.grid_size
        grid = tokens[:, first:].transpose(1, 2).unflatten(2, (height, width))
        return torch.cat([tokens[:, :first], F.avg_pool2d(grid, self.merge).flatten(2).transpose(1, 2)], dim=1)

    def forward(self, batch: Batch) -> Stream:
        """Pictures, or the cached output of the frozen prefix, to a stream."""
        if batch.features is not None:
            tokens = batch.features
        else:
            if batch.image is None:
                raise ValueError("this batch has neither pictures nor cached features for the vision transformer")
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_blocks):
                tokens = self.prefix(batch.image)
        *reached, tokens = tokens.split(int(self.vit.num_features), dim=-1)
        if self.frozen_blocks in self.levels:
            reached.append(tokens)
        length = tokens.shape[1]
        tokens = tokens if self.prompts is None else self.prompts.beside(tokens)
        for number, block in enumerate(self.vit.blocks[self.frozen_blocks :], start=self.frozen_blocks + 1):
            tokens = self._run(block, tokens)
            if number in self.levels:
                reached.append(tokens)
        tokens = torch.cat([self.vit.norm(level[:, :length]) for level in reached or [tokens]], dim=-1)
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def _run(self, block: Any, tokens: Tensor) -> Tensor:
        # The CPU's fused bf16 attention has a backward 15 times slower than plain matrix products.
        slow = tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        block.attn.fused_attn = block.attn.fused_attn and not slow
        if self.checkpointing and self.training:
            return cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
        return cast(Tensor, block(tokens))

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the trained blocks in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Resample the position embeddings of a checkpoint's state to this model's grid, in place."""
        key = f"{prefix}vit.pos_embed"
        if key in state:
            state[key] = self._resampled(state[key])

    def _resampled(self, positions: Tensor) -> Tensor:
        own = self.vit.pos_embed
        if positions.shape == own.shape:
            return positions
        without_prefix = own.shape[1] == self.vit.patch_embed.num_patches
        resampled: Tensor = resample_abs_pos_embed(
            positions,
            new_size=list(self.vit.patch_embed.grid_size),
            num_prefix_tokens=0 if without_prefix else self.vit.num_prefix_tokens,
        )
        return resampled


def load_timm_weights(encoder: TimmViT, weights: str) -> None:
    """Load a timm safetensors file. Raises FileNotFoundError, or ValueError naming the keys that differ."""
    state = read_vit(weights)
    if "pos_embed" in state:
        state["pos_embed"] = encoder._resampled(state["pos_embed"])
    own = encoder.vit.state_dict()
    differing = sorted(set(own) ^ set(state)) + [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if differing:
        raise ValueError(
            f"{weights} does not fit this vision transformer; keys that differ: {', '.join(differing[:8])}"
        )
    encoder.vit.load_state_dict(state)
