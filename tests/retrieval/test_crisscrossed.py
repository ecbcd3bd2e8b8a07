"""CxC's ratings read with distrust; its positives and correlations against slow readings of their definitions."""

import math
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.parts import two_stream
from tests.retrieval.conftest import model
from tests.retrieval.test_precision import slow
from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.correlation import sampled_spearman, spearman
from vlp.retrieval.crisscrossed import Crisscrossed, Ratings, read_crisscrossed
from vlp.retrieval.embed import Vectors, embed
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.graded import across, correlations, within
from vlp.retrieval.judged import read_judged
from vlp.retrieval.ranking import Ranking, Staged
from vlp.similarity.closed_form import GaussianSimilarity
from vlp.similarity.kinds import comparable

OWNERS = torch.tensor([0, 1, 1, 2, 0])  # the pictures of five captions
HEADS = {"sits": "caption,image", "sts": "caption1,caption2", "sis": "image1,image2"}


def rated(draw: st.DrawFn, ones: int, twos: int | None) -> Ratings:
    """Any pairs of `ones` and `twos` items, or of two items of one side, with ratings about the thresholds."""
    pairs = [(a, b) for a in range(ones) for b in range(twos or ones) if twos or a != b]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=8))
    values = draw(
        st.lists(st.sampled_from([0.0, 2.4, 2.5, 2.99, 3.0, 5.0]), min_size=len(chosen), max_size=len(chosen))
    )
    one, two = torch.tensor(chosen).T
    return Ratings(one, two, torch.tensor(values, dtype=torch.float64))


@st.composite
def splits(draw: st.DrawFn) -> tuple[Crisscrossed, Tensor, Vectors]:
    """Ratings, scores with many ties, and vectors whose products tie."""
    split = Crisscrossed("CxC", {"sits": rated(draw, 5, 3), "sts": rated(draw, 5, None), "sis": rated(draw, 3, None)})
    g = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    scores, rows = torch.randint(0, 3, (3, 5), generator=g).float(), torch.randint(0, 2, (8, 2), generator=g).float()
    return split, scores, Vectors(rows[:3], rows[3:], 1.0)


def slow_means(queries: list[tuple[list[float], list[bool]]]) -> tuple[float, float, float]:
    """R@1, R-precision and mAP@R in per cent, of the queries with a positive."""
    answered = [slow(scores, good) for scores, good in queries if any(good)]
    return tuple(100 * float(sum(column)) / len(answered) for column in zip(*answered, strict=True))


def positives(ratings: Ratings, least: float) -> set[tuple[int, int]]:
    pairs = zip(ratings.one.tolist(), ratings.two.tolist(), ratings.rating.tolist(), strict=True)
    return {(a, b) for a, b, rating in pairs if rating >= least}


def compare(found: dict[str, float], queries: list[tuple[list[float], list[bool]]]) -> None:
    got = (found["R@1"], found["R-precision"], found["mAP@R"])
    assert got == pytest.approx(slow_means(queries), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(splits())
def test_what_people_rate_high_is_a_positive_beside_the_original_ones(case: tuple) -> None:
    split, scores, sides = case
    fits = positives(split.tasks["sits"], 3) | {(c, int(i)) for c, i in enumerate(OWNERS)}
    got = across(split, Ranking(scores), OWNERS)
    compare(got["image to text"], [(scores[i].tolist(), [(c, i) in fits for c in range(5)]) for i in range(3)])
    compare(got["text to image"], [(scores[:, c].tolist(), [(c, i) in fits for i in range(3)]) for c in range(5)])
    same = {(a, b) for a in range(5) for b in range(5) if OWNERS[a] == OWNERS[b]}
    alike = {"text to text": (positives(split.tasks["sts"], 3) | same, sides.text),
             "image to image": (positives(split.tasks["sis"], 2.5), sides.image)}  # fmt: skip
    got = within(split, sides, OWNERS)
    for name, (pairs, rows) in alike.items():
        queries = []
        for a in range(len(rows)):
            others = [b for b in range(len(rows)) if b != a]  # the query itself is no answer
            good = [(a, b) in pairs or (b, a) in pairs for b in others]
            queries.append(([float(rows[a] @ rows[b]) for b in others], good))
        if any(any(good) for _, good in queries):
            compare(got[name], queries)
        else:
            assert name not in got


def slow_spearman(one: list[float], two: list[float]) -> float:
    """Pearson's correlation of ranks, each the mean place over all orders of the tied."""

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    a, b = ranks(one), ranks(two)
    mean = (len(a) + 1) / 2
    top = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    bottom = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    return top / bottom if bottom else 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=12))
def test_spearman_is_pearsons_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    one, two = zip(*pairs, strict=True)
    got = spearman(torch.tensor(one).float(), torch.tensor(two).double())
    assert got == pytest.approx(slow_spearman(list(one), list(two)), abs=1e-12)


def test_samples_take_half_of_the_queries_and_one_item_of_each() -> None:
    """Against all samples there are: halves of four queries, and an item of each."""
    query = torch.tensor([3, 0, 0, 1, 2, 0, 1, 3])
    g = torch.Generator().manual_seed(0)
    one, two = torch.rand(8, generator=g), torch.rand(8, generator=g, dtype=torch.float64)
    means, squares = [], []
    for chosen in combinations(range(4), 2):
        items = product(*([p for p in range(8) if query[p] == q] for q in chosen))
        values = [slow_spearman(one[list(pairs)].tolist(), two[list(pairs)].tolist()) for pairs in items]
        means.append(sum(values) / len(values))
        squares.append(sum(v * v for v in values) / len(values))
    mean = sum(means) / 6
    spread = math.sqrt(sum(squares) / 6 - mean**2)
    got = sampled_spearman(query, one, two, samples=4000)
    assert got[0] == pytest.approx(mean, abs=5 * spread / math.sqrt(4000))
    assert got[1] == pytest.approx(spread, rel=0.1)
    assert sampled_spearman(query, one, one.double().exp(), 20) == pytest.approx((1.0, 0.0))


def test_only_scores_of_every_pair_are_correlated() -> None:
    ratings = Ratings(torch.tensor([0, 1, 4]), torch.tensor([2, 0, 1]), torch.tensor([0.5, 2.0, 5.0]).double())
    scores = torch.zeros(3, 5)
    scores[2, 0], scores[0, 1], scores[1, 4] = 1.0, 3.0, 2.0
    rankings = {"first": Ranking(scores), "reranked": Ranking(scores, Staged.of(scores, 1))}
    got = correlations(Crisscrossed("CxC", {"sits": ratings}), rankings, None, samples=0)
    assert got == {"SITS, first": {"all pairs": pytest.approx(50.0)}}


def test_gaussians_of_one_side_are_compared_by_their_means() -> None:
    part = GaussianSimilarity(image=torch.nn.Identity(), text=torch.nn.Identity())
    vectors = torch.tensor([[3.0, 4.0, -7.0, 1.0], [4.0, -3.0, 5.0, 1.0]])
    torch.testing.assert_close(comparable(part, vectors), torch.tensor([[0.6, 0.8], [0.8, -0.6]]))


def write(folder: Path, task: str, rows: list[tuple[object, object, object]], split: str = "test") -> Path:
    """A file as CxC publishes it: `COCO_val2014:sentid:12`, `COCO_val2014_000000000034.jpg`."""
    folder.mkdir(exist_ok=True)
    kinds = [name.rstrip("12") for name in HEADS[task].split(",")]
    lines = [f"{HEADS[task]},agg_score,sampling_method"]
    for *ids, rating in rows:
        names = [f"COCO_val2014:sentid:{i}" if kind == "caption" else f"COCO_val2014_{i:012d}.jpg"
                 for kind, i in zip(kinds, ids, strict=True)]  # fmt: skip
        lines.append(f"{','.join(names)},{rating},c2i_intrasim")
    (folder / f"{task}_{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_figures_of_the_files_stand_in_the_report(dataset: EvaluationSet, tmp_path: Path) -> None:
    pictures, captions = dataset.image_ids, dataset.caption_ids
    folder = write(tmp_path / "cxc", "sits", [(captions[0], pictures[4], 3.0), (captions[7], pictures[0], 2.9)])
    write(folder, "sts", [(captions[2], captions[9], 4.5), (captions[3], captions[1], 0.25)])
    write(folder, "sis", [(pictures[8], pictures[3], 2.5)])
    write(folder, "sits", [(987654, 987653, 5.0)], split="val")  # of other pictures: passed over
    (folder / "sits_test_raw.csv").write_text("not read")
    made = model(two_stream)
    config = EvaluationConfig(k=3, judgments=str(folder), resamples=10)
    report = evaluate(made, dataset, config, progress=False)
    vectors = embed(made, dataset, config.batch_size, progress=False).vectors["itc"]
    test = [torch.tensor(column) for column in ([0, 7], [4, 0])]
    split = Crisscrossed("CxC test", {
        "sits": Ratings(*test, torch.tensor([3.0, 2.9]).double()),
        "sts": Ratings(torch.tensor([2, 3]), torch.tensor([9, 1]), torch.tensor([4.5, 0.25]).double()),
        "sis": Ratings(torch.tensor([8]), torch.tensor([3]), torch.tensor([2.5]).double()),
    })  # fmt: skip
    first = {"first": Ranking(vectors.products())}
    assert report.judged["CxC test"]["first"] == across(split, first["first"], dataset.text_image)
    assert report.judged["CxC test"]["reranked"].keys() == {"image to text", "text to image"}
    assert report.within == {"CxC test": within(split, vectors, dataset.text_image)}
    assert report.correlations == {"CxC test": correlations(split, first, vectors, 10)}
    table = report.table()
    for line in ("CxC test, re-ranked k=3: TR R@1", "CxC test, text to text by itc: R@1", "SITS, first"):
        assert line in table


def test_files_that_cannot_be_used_say_why(dataset: EvaluationSet, tmp_path: Path) -> None:
    picture, caption = dataset.image_ids[0], dataset.caption_ids[0]
    with pytest.raises(DataError, match=r"holds no NAME_image_to_caption.json and no sits_SPLIT.csv"):
        read_judged(EvaluationConfig(judgments=str(tmp_path)), dataset)
    good = f"COCO_val2014:sentid:{caption},COCO_val2014_{picture:012d}.jpg"
    head = "caption,image,agg_score,sampling_method\n"
    cases = [
        (f"{head}{good},3.5,x\nCOCO:sentid:987654,a_{picture}.jpg,2,x\n", r"1 ids that .* \(caption 987654"),
        (f"{head}COCO:sentid:987654,a_987653.jpg,2,x\n", "none of the pictures and captions rated in the splits test"),
        (f"{head}{good},5.1,x\n", r"line 2, agg_score: '5.1' is no rating from 0 to 5"),
        (f"{head}{good},nan,x\n", "'nan' is no rating"),
        (f"{head}{good}\n", r"agg_score: None is no rating"),
        (f"{head}{good},3,x\nsentid:x,a_{picture}.jpg,2,x\n", r"line 3, caption: 'sentid:x' does not end in an id"),
        (f"{head}{caption},dog.jpg,2,x\n", "image: 'dog.jpg' does not end in an id"),
        ("caption,picture,agg_score\n", r"no column 'image' \(it has caption, picture, agg_score\)"),
        ("", r"no column 'caption' \(it has none\)"),
        (head, "rates no pair"),
        (f'{head}"{good}', "is no CSV file in UTF-8"),
    ]
    for number, (text, message) in enumerate(cases):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "sits_test.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_crisscrossed(folder, dataset)
    folder = write(tmp_path / "self", "sts", [(caption, caption, 5.0)])
    with pytest.raises(DataError, match="is rated against itself"):
        read_crisscrossed(folder, dataset)
    (folder / "sts_test.csv").write_bytes(b"caption1,caption2,agg_score\n\xff\xfe,1,2\n")
    with pytest.raises(DataError, match="is no CSV file in UTF-8"):
        read_crisscrossed(folder, dataset)
