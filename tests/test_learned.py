"""The measures of `benchmarks/learn.py` against answers that are known."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.learn import verdicts
from benchmarks.learned import meanings, summed
from benchmarks.learned_alignment import covered, pointed
from benchmarks.learned_vision import Watched, assigned, best_blind, targets
from data_tools.synthesize import write_tokenizer
from vlp import training
from vlp.config import load_config
from vlp.data.mock import mock_batch
from vlp.data.tokenizer import Tokenizer
from vlp.objectives.masked_patches import softmax_divergence
from vlp.types import Graph, Regions


def test_synonyms_and_plurals_mean_the_same_and_other_words_nothing(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    found = meanings(tokenizer)

    def of(word: str) -> int:
        return int(found[tokenizer(word, 3)[0][1]])

    assert of("circle") == of("disc") == of("discs") != of("ring")
    assert of("purple") == of("violet") != of("red")
    assert -1 not in (of("circle"), of("red"))
    assert [of(word) for word in ("thing", "large", "striped", "black", "left", "two")] == [-1] * 6
    assert len({int(n) for n in found if n >= 0}) == 13  # seven colours, six shapes


def scene(boxes: list[list[float]], wanted: list[int]) -> tuple[Graph, Regions]:
    """One picture with these boxes, and a caption whose words are objects in the rows `wanted`."""
    region = torch.tensor([wanted])
    box = torch.tensor([boxes])
    there = torch.ones(1, len(boxes), dtype=torch.bool)
    kind = (region >= 0).long()
    regions = Regions(torch.zeros(1, len(boxes), 2), box, torch.zeros(1, len(boxes), 2), there)
    return Graph(kind, region, region, region), regions


def test_pointing_counts_the_words_whose_token_is_in_the_box() -> None:
    graph, regions = scene([[0.0, 0.0, 0.5, 0.5], [0.9, 0.9, 1.0, 1.0]], [0, 1, -1, 1])
    right = torch.tensor([[0, 1, 7, 1]])
    assert pointed(right, graph, regions, 2, by_region=True) == (3.0, 3.0)
    assert pointed(1 - right, graph, regions, 2, by_region=True) == (0.0, 3.0)
    # Nine patches: the centre of the first is in the large box, the small one lies in the last.
    assert pointed(torch.tensor([[0, 8, 3, 4]]), graph, regions, 9, by_region=False) == (2.0, 3.0)
    assert pointed(torch.tensor([[2, 5, 3, 8]]), graph, regions, 9, by_region=False) == (1.0, 3.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_no_constant_answer_beats_the_blind_one(seed: int, rows: int) -> None:
    g = torch.Generator().manual_seed(seed)
    target, other = torch.randn(rows, 4, generator=g), torch.randn(4, generator=g)
    assert best_blind(target, "numbers") <= float((target - other).square().mean()) + 1e-6
    divergence = softmax_divergence(other.expand(rows, -1), target)
    assert best_blind(target.softmax(1), "distribution") <= float(divergence) + 1e-6
    labels = torch.randint(0, 4, (rows,), generator=g)
    assert best_blind(labels, "label") >= max(float((labels == k).float().mean()) for k in range(4)) - 1e-6
    assert best_blind(labels, "chances") <= float(F.cross_entropy(other.expand(rows, -1), labels)) + 1e-6


def test_the_blind_answer_is_reached_by_a_constant() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    assert best_blind(labels, "label") == 0.75
    chances = torch.tensor([0.75, 1e-9, 0.25]).log().expand(4, -1)
    assert abs(best_blind(labels, "chances") - float(F.cross_entropy(chances, labels))) < 1e-5
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert abs(best_blind(rows, "distribution") - math.log(2)) < 1e-6
    assert best_blind(rows, "numbers") == 0.25


def test_where_nothing_is_asked_there_is_no_figure() -> None:
    found = summed([{"words with picture": (0.0, 0.0), "words with another": (0.0, 0.0), "matching": (3.0, 4.0)}])
    assert found == {"matching": 0.75}
    two = [{"told with picture": (3.0, 4.0), "told with another": (1.0, 4.0)}, {"told with picture": (0.0, 2.0)}]
    assert summed(two) == {"told with picture": 0.5, "told with another": 0.25, "told points": 25.0}


def test_a_loss_is_to_be_below_its_blind_one_and_a_share_above() -> None:
    found = verdicts(
        {"mrc": 1.0, "mrc blind": 2.0, "mrc_accuracy": 0.4, "mrc_accuracy blind": 0.5}
        | {"detection_giou": 0.5, "detection_giou blind": 0.4, "kaleido_turn": 1.5, "kaleido_turn blind": 1.4}
    )
    assert found == {"mrc": True, "mrc_accuracy": False, "detection_giou": True, "kaleido_turn": False}


def test_a_told_box_covers_by_half_or_by_its_centre() -> None:
    wanted = torch.tensor([[0.0, 0.0, 0.4, 0.4]]).expand(3, -1)
    found = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.9, 0.9]])
    assert covered(found, wanted) == (1.0, 3.0)  # small but inside; around it but elsewhere; beside it
    assert covered(found[:0], wanted[:0]) == (0.0, 0.0)


def test_detection_gives_nothing_for_queries_that_know_a_class_but_no_place() -> None:
    _, regions = scene([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], [])
    regions.class_probs = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    boxes = regions.boxes[:, [1, 0, 0]]
    boxes[0, 2] = torch.tensor([0.0, 0.5, 0.5, 1.0])
    told = torch.eye(3)[torch.tensor([[1, 0, 2]])]
    assert assigned(told, boxes, regions).tolist() == [2.0, 2.0]
    assert assigned(told[:, [1, 0, 2]], boxes, regions).tolist() == [
        0.0,
        2.0,
    ]  # the classes change places


def test_the_places_asked_for_are_known_again() -> None:
    """A head that says one class everywhere reports that class's share among the targets."""
    for name in ("imagebert", "rosita"):  # single draws, and regions with their neighbours
        task = training.build_task(load_config(f"configs.systems.{name}:tiny"), read_weights=False).eval()
        objective: Any = task.objectives["mrm"]
        told = objective.class_head[1]
        with torch.no_grad():
            told.weight.zero_()
            told.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0]))
        batch = mock_batch(16, 48, 20, 160, regions=(6, 64, 7), graph=True)
        view = Watched(task.model, batch, whole_rows=True)
        torch.manual_seed(3)
        report = objective(view).report
        torch.manual_seed(3)
        labels = targets(objective, view)["mrc_accuracy"][0]
        assert float(report["mrc_accuracy"]) > 0
        assert abs(float(report["mrc_accuracy"]) - float((labels == 1).float().mean())) < 1e-6
        assert (
            abs(float(report["mrc"]) - float(F.cross_entropy(told.bias.detach().expand(len(labels), -1), labels)))
            < 1e-5
        )
