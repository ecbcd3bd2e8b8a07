"""A Swin transformer as the parser of a picture, with what its cells attend to (PIM, Xue 2021, section 3.2)."""

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from vlp.types import Batch, Stream


class SwinParser(nn.Module):
    """(P, 3, S, S) -> Stream (P, N, D): the cells of a timm Swin's last stage, projected and normalised.

    The last stage must be one window, so that each cell attends to all of them. A cell that an objective hides
    (`hide`) shows a learned vector; `hides=False` leaves it out.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        width: int = 768,
        hides: bool = True,
        drop_path: float = 0.0,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        settings = {"img_size": image_size, "num_classes": 0, "drop_path_rate": drop_path} | (options or {})
        self.swin = cast(Any, timm.create_model(name, pretrained=pretrained, **settings))
        self.image_size = image_size
        self.width = width
        self.feature_width = int(self.swin.num_features)
        last = self.swin.layers[-1].blocks[-1]
        if tuple(last.window_size) != tuple(last.input_resolution):
            raise ValueError(
                f"the last stage of {name} at {image_size} px is {last.input_resolution} cells in windows of "
                f"{last.window_size}; choose an image_size at which it is one window"
            )
        self.projection = nn.Linear(self.feature_width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.normal_(self.projection.weight, std=self.feature_width**-0.5)
        nn.init.zeros_(self.projection.bias)
        if hides:
            self.hidden = nn.Parameter(torch.zeros(width))

    def hidden_features(self, batch: Batch) -> Tensor:
        """(P, N, F) cells of the last stage, what a masked objective asks for; the batch's, if it has them."""
        if batch.features is not None:
            return batch.features if torch.is_grad_enabled() else batch.features.detach()
        return self._cells(batch)

    def _cells(self, batch: Batch) -> Tensor:
        if batch.image is None:
            raise ValueError("this batch has no pictures for the Swin transformer")
        return cast(Tensor, self.swin.forward_features(batch.image)).flatten(1, 2)

    def parsed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One pass over the pictures for both: (P, N, F) cells, and (P, N, N) how much each attends to each, the mean
        of the heads of the last block, without gradient."""
        read: list[Tensor] = []
        attention = self.swin.layers[-1].blocks[-1].attn
        handle = attention.qkv.register_forward_hook(lambda _, inputs, output: read.append(output.detach()))
        try:
            features = self._cells(batch)
        finally:
            handle.remove()
        return features, attention_weights(attention, read[0])

    def forward(self, batch: Batch) -> Stream:
        """Pictures to a stream."""
        tokens: Tensor = self.norm(self.projection(self.hidden_features(batch)))
        return Stream(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))

    def hide(self, seen: Stream, hidden: Tensor) -> Stream:
        """The part's stream with the learned vector in place of the cells `hidden` (P, N) bool."""
        return Stream(torch.where(hidden[..., None], self.hidden.to(seen.tokens.dtype), seen.tokens), seen.mask)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing is resampled: another picture size needs other windows."""


@torch.no_grad()
def attention_weights(attention: Any, read: Tensor) -> Tensor:
    """timm's window attention, of one window's queries, keys and values (P, N, 3 C) -> (P, N, N), the mean of the
    heads."""
    pictures, number, _ = read.shape
    q, k, _ = read.view(pictures, number, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = attention.scale * q @ k.transpose(-2, -1) + attention._get_rel_pos_bias()
    return cast(Tensor, scores.softmax(-1).mean(1))
