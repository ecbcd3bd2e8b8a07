"""Patches seen one by one by a convolutional network (FashionBERT, Gao 2020; Kaleido-BERT, Zhuge 2021, section 3.2)."""

from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Batch, Stream
from vlp.vision.grid import frozen, grouped


class PatchCNN(nn.Module):
    """(P, 3, S, S) -> Stream (P, N, D): each picture is cut g x g times for every g of `grids`, each patch resized to
    `patch_size`, pooled to one feature and projected; learned embeddings tell its place and its grid.

    `grids` (8,) is FashionBERT's, (1, 2, 3, 4, 5) Kaleido-BERT's. The network stays frozen unless `trains`. Patches
    that an objective hides (`hide`) show zeros in place of the feature.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        width: int = 768,
        grids: Sequence[int] = (8,),
        patch_size: int = 64,
        norm: Literal["frozen", "group"] = "frozen",
        trains: bool = False,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        made: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **(options or {}))
        self.network = grouped(made) if norm == "group" else frozen(made)
        self.network.requires_grad_(trains)
        self.image_size = image_size
        self.width = width
        self.grids = tuple(grids)
        self.patch_size = patch_size
        self.feature_width = int(made.num_features)
        self.projection = nn.Linear(self.feature_width, width)
        self.positions = nn.Parameter(torch.zeros(1, sum(g * g for g in self.grids), width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.projection.weight, std=self.feature_width**-0.5)
        nn.init.zeros_(self.projection.bias)

    def patches(self, image: Tensor) -> Tensor:
        """(P, 3, S, S) -> (P, N, 3, patch_size, patch_size): grid after grid, row by row."""
        pictures, found = len(image), []
        for g in self.grids:
            side = g * self.patch_size
            whole = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
            cut = whole.unflatten(3, (g, self.patch_size)).unflatten(2, (g, self.patch_size))  # (P, 3, g, p, g, p)
            found.append(cut.permute(0, 2, 4, 1, 3, 5).reshape(pictures, g * g, 3, self.patch_size, self.patch_size))
        return torch.cat(found, dim=1)

    def features(self, patches: Tensor) -> Tensor:
        """(P, N, 3, p, p) -> (P, N, F)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and next(self.network.parameters()).requires_grad):
            found: Tensor = self.network(patches.flatten(0, 1))
        return found.view(*patches.shape[:2], -1)

    def hidden_features(self, batch: Batch) -> Tensor:
        """(P, N, F) features of all patches, what a masked objective asks for; the batch's, if it brings them."""
        if batch.features is not None:
            return batch.features if torch.is_grad_enabled() else batch.features.detach()
        if batch.image is None:
            raise ValueError("this batch has no pictures for the patches")
        return self.features(self.patches(batch.image))

    def embed(self, features: Tensor) -> Stream:
        """(P, N, F) features to a stream."""
        tokens = self.norm(self.projection(features) + self.positions)
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def forward(self, batch: Batch) -> Stream:
        """Pictures to a stream."""
        return self.embed(self.hidden_features(batch))

    def hide(self, seen: Stream, hidden: Tensor) -> Stream:
        """The part's stream with the patches `hidden` (P, N) bool showing a feature of zeros."""
        nothing = self.norm(self.projection.bias + self.positions).to(seen.tokens.dtype)
        return Stream(torch.where(hidden[..., None], nothing, seen.tokens), seen.mask)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing hangs on a picture's size."""
