"""Linear patches: the whole vision side of a one-stream model (ViLT, Kim 2021, section 3.1)."""

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from vlp.layers.blocks import init_transformer
from vlp.layers.vit_weights import check_shapes, read_vit, vit_patches
from vlp.types import Batch, Stream


class LinearPatches(nn.Module):
    """(B, 3, S, S) -> Stream (B, 1 + N, D): one linear layer a patch, learned positions, a class token first.

    `weights` is a timm ViT's safetensors file to start from, its positions resampled to this grid.
    """

    def __init__(
        self, *, image_size: int, patch: int, width: int, dropout: float = 0.0, weights: str | None = None
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of patch {patch}")
        self.image_size = image_size
        self.width = width
        self.patch = patch
        self.grid = image_size // patch
        self.projection = nn.Linear(3 * patch * patch, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.dropout = nn.Dropout(dropout)
        init_transformer(self, width)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        if weights is not None:
            state = vit_patches(read_vit(weights))
            self.adapt_state(state, "")
            check_shapes(self.state_dict(), state, weights)
            self.load_state_dict(state)

    def forward(self, batch: Batch) -> Stream:
        """Pictures to a stream."""
        if batch.image is None:
            raise ValueError("this batch has no pictures for the linear patches")
        patches = F.unfold(batch.image, self.patch, stride=self.patch).transpose(1, 2)  # (B, N, 3 P P)
        tokens = self.projection(patches)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        tokens = self.dropout(tokens)
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Resample the position embeddings of a checkpoint's state to this model's grid, in place."""
        key = f"{prefix}positions"
        if key in state and state[key].shape != self.positions.shape:
            state[key] = cast(Tensor, resample_abs_pos_embed(state[key], new_size=[self.grid] * 2, num_prefix_tokens=1))
