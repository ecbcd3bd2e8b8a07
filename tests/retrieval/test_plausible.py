"""PMRP against every order of tied items; labels read with distrust."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.parts import two_stream
from tests.retrieval.conftest import model
from tests.retrieval.test_precision import judged, slow
from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.plausible import Labels, read_labels
from vlp.retrieval.precision import precisions, r_precisions
from vlp.retrieval.ranking import Ranking

OWNERS = torch.tensor([0, 1, 1, 2, 3, 0])  # the pictures of six captions


@settings(max_examples=60, deadline=None)
@given(judged(), judged())
def test_both_forms_of_r_precision_agree(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> None:
    for keys, positive in (one, two):
        torch.testing.assert_close(r_precisions(keys, [positive])[0], precisions(keys, positive)[0])


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[int], list[set[int]], Tensor]:
    """Some of four pictures, with the classes that each shows, and scores with ties."""
    images = sorted(draw(st.sets(st.integers(0, 3), min_size=1)))
    classes = [draw(st.sets(st.integers(0, 3), min_size=1)) for _ in images]
    g = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    return images, classes, torch.randint(0, 3, (4, 6), generator=g).float()


@settings(max_examples=40, deadline=None)
@given(labelled())
def test_pmrp_counts_what_differs_in_at_most_two_classes(case: tuple[list[int], list[set[int]], Tensor]) -> None:
    images, classes, scores = case
    shown = dict(zip(images, classes, strict=True))
    texts = [c for c in range(6) if int(OWNERS[c]) in shown]
    codes = torch.tensor([[k in some for k in range(4)] for some in classes])
    got = Labels(torch.tensor(images), codes).metrics(Ranking(scores), OWNERS)
    forward, backward = [], []
    for distance in (0, 1, 2):
        near = {(i, c): len(shown[i] ^ shown[int(OWNERS[c])]) <= distance for i in images for c in texts}
        forward.append([slow(scores[i, texts].tolist(), [near[i, c] for c in texts])[1] for i in images])
        backward.append([slow(scores[images, c].tolist(), [near[i, c] for i in images])[1] for c in texts])
    for side, found in (("image to text", forward), ("text to image", backward)):
        means = [100 * float(sum(values)) / len(values) for values in found]
        assert [got[side][f"R-precision at {d}"] for d in (0, 1, 2)] == pytest.approx(means)
        assert got[side]["PMRP"] == pytest.approx(sum(means) / 3)


def instances(
    path: Path, images: list[int], shown: list[tuple[int, int]], classes: tuple[int, ...] = (1, 3, 90)
) -> Path:
    """A file in COCO's layout, with what else stands there."""
    found = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in images],
        "annotations": [{"image_id": i, "category_id": k, "bbox": [0, 0, 1, 1]} for i, k in shown],
        "categories": [{"id": k, "name": f"{k}"} for k in classes],
    }
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize("by_name", [False, True])
def test_labels_of_a_file_stand_last_in_the_report(dataset: EvaluationSet, tmp_path: Path, by_name: bool) -> None:
    ids = dataset.image_ids
    if by_name:
        dataset.filenames = [f"COCO_val2014_{5000 + i:012d}.jpg" for i in range(dataset.num_images)]
        ids = [5000 + i for i in range(dataset.num_images)]
    shown = [(ids[2], 90), (ids[2], 90), (ids[5], 1), (ids[5], 3), (ids[7], 3), (777, 1)]
    path = instances(tmp_path / "instances.json", [*ids, 777], shown)
    labels = read_labels(path, dataset)
    assert labels.images.tolist() == [2, 5, 7]
    assert labels.classes.int().tolist() == [[0, 0, 1], [1, 1, 0], [0, 1, 0]]
    report = evaluate(model(two_stream), dataset, EvaluationConfig(k=3, labels=str(path)), progress=False)
    assert report.labelled == 3
    assert report.plausible.keys() == {"first", "reranked"}
    assert report.table().splitlines()[-2].startswith("PMRP of 3 labelled pictures, re-ranked k=3: TR ")
    assert "65 / 57 %" in report.table().splitlines()[-1]


def test_files_that_cannot_be_used_say_why(dataset: EvaluationSet, tmp_path: Path) -> None:
    path, ids = tmp_path / "instances.json", dataset.image_ids
    with pytest.raises(DataError, match="instances.json cannot be read as JSON"):
        read_labels(path, dataset)
    cases = [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [{"id": 1}], "annotations": {}}', "has no list 'annotations'"),
        ('{"images": [{"id": 1}, {"id": "2"}]}', r"images\[1\] has no whole number 'id'"),
        ('{"images": [], "annotations": [{"image_id": 1}]}', r"annotations\[0\] has no whole number 'category_id'"),
        ('{"images": [], "annotations": [7]}', r"annotations\[0\] has no whole number 'image_id'"),
    ]
    for text, message in cases:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_labels(path, dataset)
    with pytest.raises(DataError, match=r"does not list 1 of the 9 pictures of .* \(8.jpg"):
        read_labels(instances(path, ids[:-1], [(ids[0], 1)]), dataset)
    with pytest.raises(DataError, match="category_id 4, which categories do not have"):
        read_labels(instances(path, ids, [(ids[0], 4)]), dataset)
    with pytest.raises(DataError, match="labels none of the pictures"):
        read_labels(instances(path, [*ids, 777], [(777, 1)]), dataset)
