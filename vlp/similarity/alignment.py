"""Similarities as vectors, reasoned over: the graph and the filter of SGRAF (Diao 2021, sections 3.2-3.4)."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.pooling.gated import GatedPool
from vlp.similarity.stacked_attention import context
from vlp.types import Stream

Reasoning = Literal["graph", "filter"]


class AlignmentReasoning(nn.Module):
    """The scorer of SGRAF: logits, whose sigmoids the paper ranks (`Ranking(squash=True)`).

    One vector tells how each word is alike what it reads of the regions, one how picture and caption are alike as a
    whole: W |x - y|^2, of length 1 (equations 2-4). "graph": they exchange `steps` times and the whole's is read (SGR,
    equations 5-8); "filter": a gate chooses those that count (SAF, equations 9-10).

    The gate's batch norm is left out: it would tie a pair's score in training to the other pairs of its batch.
    """

    def __init__(
        self,
        *,
        width: int,
        align_dim: int = 256,
        sharpness: float = 9.0,
        reasoning: Reasoning = "graph",
        steps: int = 3,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.width = width
        self.align_dim = align_dim
        self.sharpness = sharpness
        self.image_pool = GatedPool(width=width, dropout=dropout)
        self.text_pool = GatedPool(width=width, dropout=dropout)
        self.local = nn.Linear(width, align_dim)
        self.whole = nn.Linear(width, align_dim)
        self.reasoning: nn.Module
        if reasoning == "graph":
            self.reasoning = AlignmentGraph(width=align_dim, steps=steps)
        else:
            self.reasoning = AlignmentFilter(width=align_dim)
        self.score = nn.Linear(align_dim, 1)

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return words * (3 * self.width + 8 * self.align_dim + 3 * regions + 4 * words)

    def alignments(self, image: Stream, text: Stream) -> Stream:
        """(B, N, E), (C, L, E) -> (C B, 1 + L, A): the whole's alignment vector, then the words'."""
        read = F.normalize(context(text, image, self.sharpness), dim=3)
        local = F.normalize(self.local((read - text.tokens[:, None]).square()), dim=3)  # (C, B, L, A)
        pictures = F.normalize(self.image_pool(image), dim=1)
        captions = F.normalize(self.text_pool(text), dim=1)
        whole = F.normalize(self.whole((pictures[None] - captions[:, None]).square()), dim=2)[:, :, None]
        mask = F.pad(text.mask, (1, 0), value=True)[:, None].expand(-1, len(image.mask), -1)
        return Stream(torch.cat([whole, local], 2).flatten(0, 1), mask.flatten(0, 1))

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C) logits."""
        read = cast(Tensor, self.reasoning(self.alignments(image, text)))
        return cast(Tensor, self.score(read)).view(len(text.mask), len(image.mask)).T


class AlignmentGraph(nn.Module):
    """(R, K, A) -> (R, A): `steps` times s <- ReLU(W softmax((W_q s)(W_k s)^T) s), then the first node.

    Computed with W_q^T W_k in one product a node, and the last time for the first node alone. A bias of the keys would
    add to all edges of a node alike, which the softmax takes out, so there is none.
    """

    def __init__(self, *, width: int, steps: int) -> None:
        super().__init__()
        self.query = nn.ModuleList(nn.Linear(width, width) for _ in range(steps))
        self.key = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(steps))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(steps))

    def forward(self, nodes: Stream) -> Tensor:
        """Alignment vectors to one."""
        vectors, gone = nodes.tokens, ~nodes.mask[:, None]
        last = len(self.query) - 1
        for number, (query, key, out) in enumerate(zip(self.query, self.key, self.out, strict=True)):
            asking, weight = vectors[:, :1] if number == last else vectors, cast(Tensor, key.weight)
            asked = F.linear(asking, weight.T @ cast(Tensor, query.weight), cast(Tensor, query.bias) @ weight)
            edges = F.softmax((asked @ vectors.transpose(1, 2)).masked_fill(gone, float("-inf")), dim=2)
            vectors = F.relu(out(edges @ vectors))
        return vectors[:, 0]


class AlignmentFilter(nn.Module):
    """(R, K, A) -> (R, A): the sum of the vectors by gates sigmoid(w s), brought to sum 1; of length 1."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 1)

    def forward(self, nodes: Stream) -> Tensor:
        """Alignment vectors to one."""
        gates = torch.sigmoid(self.gate(nodes.tokens)[..., 0]).masked_fill(~nodes.mask, 0.0)
        gates = gates / gates.sum(1, keepdim=True).clamp(min=1e-8)
        return F.normalize(torch.einsum("rk,rka->ra", gates, nodes.tokens), dim=1)
