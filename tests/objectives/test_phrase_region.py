"""KD-VLP's agreement of phrases and regions against loops in float64."""

import math
from typing import Any

import pytest
import torch

from configs.world import LABELS
from data_tools.world.regions import CLASSES
from data_tools.world.words import vocabulary
from tests.objectives.test_object_masking import GRID
from tests.parts import batch, one_stream, regions
from vlp.config import build, lazy
from vlp.data.tokenizer import SPECIALS
from vlp.objectives.negatives import RandomNegatives
from vlp.objectives.phrase_region import PhraseRegion, agreement_loss, cosines, members
from vlp.task import Task
from vlp.types import Graph

BATCH = batch(captions_per_image=1)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def test_the_divergence_is_that_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    found, wanted = 2 * torch.rand(2, 3, 4, generator=g) - 1, 2 * torch.rand(2, 3, 4, generator=g) - 1
    phrases = torch.tensor([[True, True, False], [True, False, False]])
    there = torch.tensor([[True, True, True, False], [True, False, True, True]])
    total, count = 0.0, 0
    for b in range(2):
        for f in range(3):
            if phrases[b, f]:
                kept = [r for r in range(4) if there[b, r]]
                p, q = (softmax([10.0 * float(s[b, f, r]) for r in kept]) for s in (wanted, found))
                total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
                count += 1
    assert abs(float(agreement_loss(found, wanted, phrases, there, 10.0)) - total / count) < 1e-5
    empty = agreement_loss(found, wanted, phrases, torch.zeros_like(there), 10.0)
    assert float(empty) == 0.0


def test_a_phrase_is_the_mean_of_its_pieces() -> None:
    tokens = torch.randn(1, 5, 3)
    found = members(torch.tensor([[-1, 1, 1, -1, 0]])) @ tokens
    torch.testing.assert_close(found[0], torch.stack([tokens[0, 4], tokens[0, 1:3].mean(0)]))
    assert not members(torch.tensor([[-1, -1]])).any()


def test_cosines_of_every_pair() -> None:
    one, two = torch.randn(1, 2, 3), torch.randn(1, 4, 3)
    for i in range(2):
        for j in range(4):
            wanted = torch.cosine_similarity(one[0, i].double(), two[0, j].double(), dim=0)
            assert abs(float(cosines(one, two)[0, i, j]) - float(wanted)) < 1e-5


def task(labels: list[list[int]]) -> Task:
    torch.manual_seed(0)
    system: dict[str, Any] = one_stream()
    system["model"].kwargs["vision"] = GRID
    system["objectives"] = {"pra": lazy(PhraseRegion)(negatives=lazy(RandomNegatives)(), labels=labels)}
    made: Task = build(lazy(Task)(**system))
    return made


def test_names_are_asked_for_and_word_embeddings_as_targets_stay() -> None:
    b = BATCH
    b.regions = regions(8, 4, 6, 5)
    phrase = torch.where(b.word_ids >= 0, b.word_ids // 2, -1)
    b.graph = Graph(torch.zeros_like(phrase), phrase, phrase, torch.full_like(phrase, -1))
    with pytest.raises(ValueError, match="4 class names for 5 classes"):
        task([[7]] * 4)(b)
    made = task([[57, 58], [56], [55], [54], [59]])
    b.text_ids = torch.where(b.text_ids >= 54, 10, b.text_ids)  # names stand in no caption
    made(b).value.backward()
    grad = made.model.text.embeddings.word.weight.grad  # type: ignore[union-attr]
    assert float(grad[54:].abs().max()) == 0.0
    assert float(grad[:54].abs().max()) > 0.0


def test_the_worlds_labels_are_the_names_of_its_classes() -> None:
    words = [*SPECIALS, *vocabulary()]
    assert [[words[i] for i in pieces] for pieces in LABELS] == [[name] for name in CLASSES]
