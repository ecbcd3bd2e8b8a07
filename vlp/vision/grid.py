"""A convolutional network's last map as image tokens (Pixel-BERT, Huang 2020, section 3.2)."""

from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm_act import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn

from vlp.layers import draws
from vlp.types import Batch, Stream


class GridCNN(nn.Module):
    """(P, 3, S, S) -> Stream (P, N, D): any timm network's deepest map, pooled, projected, with learned positions.

    `sample` cells of each picture, drawn anew each step, are used in training (all in evaluation); 0 takes all.
    Batch statistics would let pictures of a batch, or a rank, tell on each other: `norm` "frozen" keeps those
    of the weights as constants, "group" puts group norms in their place, for training from nothing. A cell that an
    objective hides (`hide`) shows a learned vector; `hides=False` leaves it out.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        width: int = 768,
        pool: int = 1,
        sample: int = 0,
        norm: Literal["frozen", "group"] = "frozen",
        hides: bool = False,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        made: Any = timm.create_model(name, pretrained=pretrained, features_only=True, **(options or {}))
        self.network = grouped(made) if norm == "group" else frozen(made)
        channels, reduction = made.feature_info.channels()[-1], made.feature_info.reduction()[-1]
        if image_size % (reduction * pool):
            raise ValueError(f"image_size {image_size} is not a multiple of {name}'s cell, {reduction} x {pool} px")
        if hides and sample:
            raise ValueError(f"hides=True hides cells by their place, but sample={sample} leaves some out; drop one")
        self.image_size = image_size
        self.channels = int(channels)
        self.width = width
        self.pool = pool
        self.sample = sample
        self.grid = image_size // (reduction * pool)
        self.projection = nn.Linear(channels, width)
        self.positions = nn.Parameter(torch.zeros(1, self.grid**2, width))
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.projection.weight, std=channels**-0.5)
        nn.init.zeros_(self.projection.bias)
        if hides:
            self.hidden = nn.Parameter(torch.zeros(width))

    def cells(self, image: Tensor) -> Tensor:
        """(P, 3, S, S) -> (P, N, C): the pooled map, row by row."""
        grid = self.network(image)[-1]
        if grid.shape[1] != self.channels:  # Swin's maps have their channels last
            grid = grid.permute(0, 3, 1, 2)
        return F.max_pool2d(grid, self.pool).flatten(2).transpose(1, 2)

    def hidden_features(self, batch: Batch) -> Tensor:
        """(P, N, C) cells of the pictures, what a masked objective asks for; those of the batch, if it brings them."""
        if batch.features is not None:
            return batch.features if torch.is_grad_enabled() else batch.features.detach()
        if batch.image is None:
            raise ValueError("this batch has no pictures for the convolutional grid")
        return self.cells(batch.image)

    def forward(self, batch: Batch) -> Stream:
        """Pictures to a stream."""
        tokens = self.projection(self.hidden_features(batch)) + self.positions
        if self.sample and self.training and self.sample < tokens.shape[1]:
            kept = sampled(len(tokens), tokens.shape[1], self.sample, tokens.device)
            tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def hide(self, seen: Stream, hidden: Tensor) -> Stream:
        """The part's stream with the cells `hidden` (P, N) bool showing the learned vector at their positions."""
        shown = (self.hidden + self.positions).to(seen.tokens.dtype)
        return Stream(torch.where(hidden[..., None], shown, seen.tokens), seen.mask)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Resample the positions of a checkpoint's state to this grid, in place."""
        key = f"{prefix}positions"
        if key in state and state[key].shape != self.positions.shape:
            side = int(state[key].shape[1] ** 0.5)
            grid = state[key].transpose(1, 2).unflatten(2, (side, side))
            resized = F.interpolate(grid, size=(self.grid, self.grid), mode="bicubic", antialias=True)
            state[key] = resized.flatten(2).transpose(1, 2)


def sampled(pictures: int, cells: int, count: int, device: torch.device) -> Tensor:
    """(P, count) places of cells, drawn without replacement, in their order."""
    return draws.uniform(pictures, cells, device=device).topk(count, dim=1).indices.sort(dim=1).values


def frozen(network: nn.Module) -> Any:
    """The network with its batch norms as constants."""
    return cast(Any, freeze_batch_norm_2d)(network)


def grouped(network: nn.Module) -> Any:
    """The network with a group norm (of up to 8 groups) in place of each batch norm, its activation kept."""
    for name, part in network.named_children():
        if isinstance(part, (nn.BatchNorm2d, FrozenBatchNormAct2d)):
            channels = int(cast(Any, part).num_features)
            groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
            norm = nn.GroupNorm(groups, channels)
            activation = getattr(part, "act", None)
            setattr(network, name, norm if activation is None else nn.Sequential(norm, activation))
        else:
            grouped(part)
    return network
