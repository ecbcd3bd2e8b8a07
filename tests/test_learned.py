"""The measures of `benchmarks/learn.py` against answers that are known."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.learned import best_blind, meanings, pointed
from data_tools.synthesize import write_tokenizer
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
    assert best_blind(target) <= float((target - other).square().mean()) + 1e-6
    shares = target.log_softmax(1)
    divergence = softmax_divergence(other.expand(rows, -1), shares)
    assert best_blind(shares, kl=True) <= float(divergence) + 1e-6
    labels = torch.randint(0, 3, (rows,), generator=g)
    assert best_blind(labels) >= max(float((labels == k).float().mean()) for k in range(3)) - 1e-6
