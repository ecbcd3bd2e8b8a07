"""Relation alignment against the paper read row by row, its anchors and schedule, and what it asks of a model."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parts import batch, one_stream, two_stream
from vlp.config import build, lazy
from vlp.fusion.one_stream import OneStream
from vlp.objectives.relation_alignment import EPSILON, RelationAlignment, relation_distance, shares
from vlp.task import Task
from vlp.view import View

ROWS, HEADS, WORDS, REGIONS = 5, 3, 6, 4


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Affinities, words present (not the first, as [CLS]; holes allowed) and regions present."""
    g = torch.Generator().manual_seed(seed)
    affinities = 2 * torch.randn(ROWS, HEADS, WORDS + REGIONS, WORDS + REGIONS, generator=g, dtype=torch.float64)
    words, regions = torch.rand(ROWS, WORDS, generator=g) < 0.7, torch.rand(ROWS, REGIONS, generator=g) < 0.7
    words[:, 0], words[:, 1], regions[:, 2] = False, True, True
    return affinities, words, regions


def attention(logits: Tensor, queries: list[int], keys: list[int]) -> list[list[float]]:
    """The mean over the heads of softmaxes over `keys`, of one row's affinities (H, T, T)."""
    table = []
    for i in queries:
        line = [0.0] * len(keys)
        for head in logits:
            raised = [math.exp(float(head[i, j])) for j in keys]
            line = [x + r / sum(raised) / len(logits) for x, r in zip(line, raised, strict=True)]
        table.append(line)
    return table


def reading(logits: Tensor, own: list[int], other: list[int], kind: str) -> float:
    """Equations of sections 4.2 and 4.3 for one pair: `own` are the places of the anchor's tokens."""
    within, across = attention(logits, own, own), attention(logits, own, other)
    if kind == "singular":
        partner = [max(range(len(other)), key=lambda k, line=line: line[k]) for line in across]
        theirs = attention(logits, other, other)
        told = [[math.exp(theirs[partner[a]][partner[b]]) for b in range(len(own))] for a in range(len(own))]
        told = [[x / sum(line) for x in line] for line in told]
    else:
        back = attention(logits, other, own)
        told = [
            [sum(across[a][k] * back[k][b] for k in range(len(other))) for b in range(len(own))]
            for a in range(len(own))
        ]
    total = 0.0
    for one, two in zip(within, told, strict=True):
        for p, q in zip(one, two, strict=True):
            log_p, log_q = math.log(p + EPSILON), math.log(q + EPSILON)
            total += p * (log_p - log_q) + q * (log_q - log_p)
    return total / len(own)


@pytest.mark.parametrize("kind", ["singular", "distributed"])
@pytest.mark.parametrize("anchor", ["text", "image"])
def test_distances_are_the_papers(anchor: Any, kind: Any) -> None:
    affinities, words, regions = case()
    found = relation_distance(affinities, words, regions, anchor=anchor, kind=kind)
    for row in range(ROWS):
        text = words[row].nonzero()[:, 0].tolist()
        image = (WORDS + regions[row].nonzero()[:, 0]).tolist()
        own, other = (text, image) if anchor == "text" else (image, text)
        assert abs(float(found[row]) - reading(affinities[row], own, other, kind)) < 1e-9


@pytest.mark.parametrize("kind", ["singular", "distributed"])
@pytest.mark.parametrize("anchor", ["text", "image"])
def test_what_is_absent_changes_nothing_and_gets_no_gradient(anchor: Any, kind: Any) -> None:
    affinities, words, regions = case(1)
    there = torch.cat([words, regions], 1)
    both = (there[:, None, :, None] & there[:, None, None, :]).expand_as(affinities)
    other = torch.where(both, affinities, 50 * torch.randn_like(affinities)).requires_grad_()
    one = relation_distance(affinities, words, regions, anchor=anchor, kind=kind)
    two = relation_distance(other, words, regions, anchor=anchor, kind=kind)
    torch.testing.assert_close(two, one)
    two.sum().backward()
    assert torch.isfinite(other.grad).all()  # type: ignore[union-attr]
    assert not other.grad[~both].any()  # type: ignore[index]


def test_equal_relations_are_at_no_distance_and_a_pair_without_words_weighs_nothing() -> None:
    """Each word looks at its own region; within a side all attend evenly."""
    words = torch.ones(1, 4, dtype=torch.bool)
    affinities = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    affinities[..., :4, 4:] = affinities[..., 4:, :4] = 1000 * torch.eye(4)
    assert relation_distance(affinities, words, words, anchor="text", kind="singular").item() == pytest.approx(0.0)
    nothing = torch.zeros_like(words)
    for one, two in ((nothing, words), (words, nothing), (nothing, nothing)):
        distance = relation_distance(affinities, one, two, anchor="text", kind="singular")
        assert torch.isfinite(distance).all()
    assert relation_distance(affinities, nothing, words, anchor="text", kind="singular").item() == 0.0


def task() -> Task:
    torch.manual_seed(0)
    made: Task = build(lazy(Task)(**one_stream()))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def own_attention(fusion: OneStream, view: View) -> Tensor:
    """(B, H, L + N, L + N) affinities of the last layer, pair by pair without padding, head by head."""
    length, places = view.text.mask.shape[1], view.image.mask.shape[1]
    block: Any = fusion.layers[-1]
    width = fusion.width // block.attention.heads
    out = torch.zeros(len(view.batch), block.attention.heads, length + places, length + places)
    for row in range(len(view.batch)):
        mask = torch.cat([view.text.mask[row], view.image.mask[row]])
        tokens = torch.cat([view.text.tokens[row] + fusion.modality[0], view.image.tokens[row] + fusion.modality[1]])
        hidden = _through(fusion.layers[:-1], tokens[mask])
        q, k, _ = block.attention.qkv(block.attention_norm(hidden)).chunk(3, dim=-1)
        for head in range(block.attention.heads):
            part = slice(head * width, (head + 1) * width)
            inner = torch.zeros(len(mask), len(mask))
            inner[mask[:, None] & mask] = (q[:, part] @ k[:, part].T / width**0.5).flatten()
            out[row, head] = inner
    return out


def _through(layers: Any, tokens: Tensor) -> Tensor:
    from vlp.layers.packing import Packing

    rows = Packing.of(torch.ones(1, len(tokens), dtype=torch.bool))
    for layer in layers:
        tokens = layer(tokens, rows)
    return tokens


def test_both_directions_take_turns_and_their_weight_rises() -> None:
    made, objective = task(), RelationAlignment(total_steps=4)
    view = View(made.model, batch())
    with torch.no_grad():
        affinities = own_attention(made.model.fusion, view)  # type: ignore[arg-type]
        for step in range(6):
            anchor: Any = ("text", "image")[step % 2]
            wanted = relation_distance(
                affinities, view.batch.word_ids >= 0, view.image.mask, anchor=anchor, kind="singular"
            ).mean()
            loss = objective(view)
            torch.testing.assert_close(loss.report["relations"], wanted, rtol=1e-4, atol=1e-5)
            weight = math.exp(5 * (min(step / 4, 1.0) - 1))
            torch.testing.assert_close(loss.value, weight * loss.report["relations"])
            objective.after_step()


def test_a_picture_that_pairs_share_is_read_for_each() -> None:
    made, objective, some = task(), RelationAlignment(total_steps=1), batch()
    with torch.no_grad():
        apart = objective(View(made.model, some)).value
        shared = batch()
        shared.image, shared.image_row = some.image[::2], torch.arange(len(some)) // 2  # type: ignore[index]
        torch.testing.assert_close(objective(View(made.model, shared)).value, apart)


@pytest.mark.parametrize("kind", ["singular", "distributed"])
def test_gradients_reach_what_makes_the_attention_and_nothing_behind(kind: Any) -> None:
    made = task()
    RelationAlignment(total_steps=1, kind=kind)(View(made.model, batch())).value.backward()
    last = f"fusion.layers.{len(made.model.fusion.layers) - 1}."  # type: ignore[union-attr,arg-type]
    behind = ("similarities.", "fusion.pooler", "fusion.norm", f"{last}feed", f"{last}attention.out")
    for name, parameter in made.model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached != name.startswith(behind), name


def test_attention_in_half_precision_is_summed_in_full() -> None:
    affinities, words, _ = case()
    half = shares(affinities[..., :WORDS, :WORDS].bfloat16(), words)
    assert half.dtype is torch.float32
    torch.testing.assert_close(half.sum(2), torch.ones(ROWS, WORDS))


def test_a_fusion_that_tells_no_attention_and_no_steps_are_named() -> None:
    two: Task = build(lazy(Task)(**two_stream(teacher=False)))
    with pytest.raises(ValueError, match="CrossFusion"):
        RelationAlignment(total_steps=1)(View(two.model, batch()))
    with pytest.raises(ValueError, match="total_steps=0"):
        RelationAlignment(total_steps=0)
