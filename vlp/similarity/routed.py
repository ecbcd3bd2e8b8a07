"""Interaction that each pair chooses for itself: cells, and routers between them (DIME, Qu 2021, section 3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.similarity.joint import JointAttention
from vlp.types import Stream

CELLS = ("keep", "intra", "cross", "global")


class Router(nn.Module):
    """(R, E) -> (R, paths): how much of a cell's output goes to each cell of the next layer, relu(tanh(MLP)).

    The last layer's bias begins at 1.5, so that every path is open.
    """

    def __init__(self, *, width: int, paths: int, hidden: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, paths))
        nn.init.constant_(cast(nn.Linear, self.layers[2]).bias, 1.5)

    def forward(self, mean: Tensor) -> Tensor:
        """Mean of a cell's tokens to its paths."""
        return F.relu(torch.tanh(self.layers(mean)))


class Cells(nn.Module):
    """The four cells of one layer. Tokens are (R, K, E) for R pairs, the other side's (R, S, E).

    keep: ReLU. intra: self-attention. cross: what a fragment reads of the other side scales and shifts it (FiLM).
    global: the other side's whole guides each fragment, (1 + norm(W l * g)) l.
    """

    def __init__(self, *, width: int, heads: int, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.intra = JointAttention(width=width, heads=heads)
        self.scale = nn.Linear(width, width)
        self.shift = nn.Linear(width, width)
        self.film = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.guide = nn.Linear(width, width)

    def alone(self, inputs: list[Tensor], mask: Tensor) -> list[Tensor]:
        """What the cells make of their own inputs without the other side: keep, intra, and what is to be guided."""
        keep, intra, _, whole = inputs
        return [F.relu(keep), cast(Tensor, self.intra(intra, mask)), cast(Tensor, self.guide(whole))]

    def forward(
        self, inputs: list[Tensor], alone: list[Tensor], mask: Tensor, other: Stream, row: Tensor
    ) -> list[Tensor]:
        """Each cell's own input to its output, in the order of `CELLS`. `other` holds items, `row` (R,) says which one
        a pair has: what is read is a sum of its fragments with shares that add up to 1, so that each item goes through
        `scale` and `shift` once, and not what every pair reads."""
        keep, intra, guided = alone
        cross, whole = inputs[2:]
        products = cross @ other.tokens[row].transpose(1, 2)
        shares = attention_of_pairs(products, mask, other.mask[row], self.sharpness)
        scale, shift = shares @ self.scale(other.tokens)[row], shares @ self.shift(other.tokens)[row]
        film = self.film(cross * torch.tanh(scale) + shift)
        guide = F.normalize(guided * masked_mean(other.tokens, other.mask)[row, None], dim=2)
        return [keep, intra, cross + film, (1 + guide) * whole]


class RoutedInteraction(nn.Module):
    """The scorer of DIME: `layers` of cells on one side of a pair, softly routed, then the fragments' mean and largest
    values against the other side's whole. `direction` says whose fragments are routed.

    The outputs for the next layer's cell are summed by the routers' shares, which add up to 1. Batch norms are left
    out. Memory of a pair: some E numbers for every fragment, cell and layer.
    """

    def __init__(
        self, *, width: int, heads: int = 4, layers: int = 3, direction: str = "image", sharpness: float = 4.0
    ) -> None:
        super().__init__()
        if direction not in ("image", "text"):
            raise ValueError(f"direction={direction!r} is neither 'image' nor 'text'")
        self.width = width
        self.direction = direction
        self.cells = nn.ModuleList(Cells(width=width, heads=heads, sharpness=sharpness) for _ in range(layers))
        last = [len(CELLS)] * (layers - 1) + [1]
        self.routers = nn.ModuleList(nn.ModuleList(Router(width=width, paths=paths) for _ in CELLS) for paths in last)

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        fragments = regions if self.direction == "image" else words
        held = len(self.cells) if torch.is_grad_enabled() else 1  # layers, whose cells all wait for the backward pass
        return held * 16 * self.width * fragments + 4 * regions * words

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        pictures, captions = len(image.mask), len(text.mask)
        first = torch.arange(pictures, device=image.mask.device).repeat_interleave(captions)
        second = torch.arange(captions, device=text.mask.device).repeat(pictures)
        own, other, row, other_row = (image, text, first, second)
        if self.direction == "text":
            own, other, row, other_row = (text, image, second, first)
        tokens, mask = self.routed(own, other, row, other_row)[0], own.mask[row]
        whole = F.normalize(masked_mean(other.tokens, other.mask), dim=1)[other_row]
        largest = tokens.masked_fill(~mask[..., None], float("-inf")).amax(1)
        summary = F.normalize(masked_mean(tokens, mask) + largest, dim=1)
        return (summary * whole).sum(1).view(pictures, captions)

    def routed(self, own: Stream, other: Stream, row: Tensor, other_row: Tensor) -> tuple[Tensor, Tensor]:
        """R pairs of an item of `own` (A, K, E) and one of `other` (B, S, E), by their rows (R,) -> (R, K, E) tokens of
        each pair at the end, and (R, all paths) the shares of every router on the way.

        In the first layer what needs no other side is the same for all pairs of an item, and computed once.
        """
        first, mask = cast(Cells, self.cells[0]), own.mask[row]
        alone = [part[row] for part in first.alone([own.tokens] * len(CELLS), own.mask)]
        inputs, chosen = [own.tokens[row]] * len(CELLS), []
        for number, (cells, routers) in enumerate(zip(self.cells, self.routers, strict=True)):
            alone = cast(Cells, cells).alone(inputs, mask) if number else alone
            outputs = cells(inputs, alone, mask, other, other_row)
            routed = zip(cast(nn.ModuleList, routers), outputs, strict=True)
            paths = [cast(Tensor, router(masked_mean(output, mask))) for router, output in routed]
            shares = torch.stack(paths, 2)  # (R, paths, cells)
            shares = shares / shares.sum(2, keepdim=True).clamp(min=1e-8)
            stacked = torch.stack(outputs, 1)
            inputs = list(torch.einsum("rpc,rcke->prke", shares, stacked).unbind(0))
            chosen.append(shares.flatten(1))
        return inputs[0], torch.cat(chosen, 1)


def attention_of_pairs(products: Tensor, mask: Tensor, other_mask: Tensor, sharpness: float) -> Tensor:
    """(R, K, S) products of R pairs -> shares, as `stacked_attention.attention` gives them to one item and one."""
    seen = F.leaky_relu(products, 0.1).masked_fill(~mask[:, :, None], 0.0)
    logits = sharpness * F.normalize(seen, dim=1)
    return F.softmax(logits.masked_fill(~other_mask[:, None], float("-inf")), dim=2)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(R, K, E) -> (R, E)."""
    return tokens.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
